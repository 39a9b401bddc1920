// Command testapp is the app that the end-to-end tests deploy: it shows what
// reaches an app (headers, WebSockets, streams) and misbehaves on request.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/coder/websocket"
)

// page is loaded when something has come by WebSocket, or after twenty seconds: until
// then its image is on its way, and a browser prints a page that is loaded.
const page = `<!doctype html><title>waiting</title><body>page<img src="/slow?for=20s" alt=""><script>
const s = new WebSocket((location.protocol === 'https:' ? 'wss://' : 'ws://') + location.host + '/ws');
s.onopen = () => s.send('hello from the browser');
s.onmessage = (m) => { document.title = 'done'; document.body.append('echo: ' + m.data); document.images[0].src = 'data:,'; };
s.onerror = () => { document.body.append('failed'); document.images[0].src = 'data:,'; };
</script>`

func main() {
	if len(os.Args) > 1 && os.Args[1] == "exit" {
		fmt.Println("about to exit, as asked")
		code, _ := strconv.Atoi(os.Args[2])
		os.Exit(code)
	}
	if len(os.Args) > 1 && os.Args[1] == "get" {
		os.Exit(show(os.Args[2]))
	}
	if len(os.Args) > 1 && os.Args[1] == "api" {
		os.Exit(callAPI(os.Args[2:]))
	}
	log.SetFlags(0)
	log.Printf("testapp %s starts", os.Getenv("RELEASE"))
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, page) })
	mux.HandleFunc("/release", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, os.Getenv("RELEASE")) })
	mux.HandleFunc("/headers", func(w http.ResponseWriter, r *http.Request) { json.NewEncoder(w).Encode(r.Header) })
	mux.HandleFunc("/env", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, os.Getenv(r.URL.Query().Get("name"))) })
	mux.HandleFunc("/file", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, r.URL.Query().Get("path")) })
	mux.HandleFunc("/slow", slow)
	mux.HandleFunc("/suspend-me", suspendMe)
	mux.HandleFunc("/suspended", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, suspended.Load().(string)) })
	mux.HandleFunc("/ws", echo)
	mux.HandleFunc("/crash", func(http.ResponseWriter, *http.Request) { log.Print("crashing, as asked"); os.Exit(3) })
	mux.HandleFunc("/eat", eat)
	mux.HandleFunc("/healthy", func(w http.ResponseWriter, _ *http.Request) {
		if os.Getenv("SICK") != "" {
			http.Error(w, "sick, as asked", http.StatusInternalServerError)
		}
	})
	if os.Getenv("EXIT_AT_START") != "" {
		log.Print("cannot open the database, as asked")
		os.Exit(7)
	}
	go stopOnSignal()
	port := "8080"
	if p := os.Getenv("PORT"); p != "" {
		port = p
	}
	log.Fatal(http.ListenAndServe(":"+port, mux))
}

// show prints what a URL answers.
func show(url string) (code int) {
	resp, err := (&http.Client{Timeout: 20 * time.Second}).Get(url)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer resp.Body.Close()
	fmt.Println(resp.StatusCode)
	io.Copy(os.Stdout, resp.Body)
	return 0
}

func stopOnSignal() {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGINT, syscall.SIGTERM)
	s := <-c
	log.Printf("stopping on %s", s)
	os.Exit(0)
}

func slow(w http.ResponseWriter, r *http.Request) {
	d, _ := time.ParseDuration(r.URL.Query().Get("for"))
	io.WriteString(w, "begin\n")
	w.(http.Flusher).Flush()
	time.Sleep(d)
	io.WriteString(w, "end\n")
}

func echo(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
	if err != nil {
		return
	}
	defer c.CloseNow()
	for {
		kind, b, err := c.Read(context.Background())
		if err != nil {
			return
		}
		if err := c.Write(context.Background(), kind, b); err != nil {
			return
		}
	}
}

// eat takes memory until there is none.
func eat(http.ResponseWriter, *http.Request) {
	var all [][]byte
	for {
		b := make([]byte, 8<<20)
		for i := range b {
			b[i] = byte(i)
		}
		all = append(all, b)
		time.Sleep(5 * time.Millisecond)
	}
}
