// Command visitor is what the tests run inside a machine: it speaks HTTP over a
// unix socket.
package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"
)

func client(path string) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}}}
}

// ask prints what the socket answers, or why it does not.
func ask(c *http.Client, url string, body []byte) string {
	res, err := c.Post("http://host"+url, "text/plain", bytes.NewReader(body))
	if err != nil {
		return "error: " + err.Error()
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return fmt.Sprintf("%d bytes, then error: %v", len(b), err)
	}
	return string(b)
}

func main() {
	path, args := os.Args[2], os.Args[3:]
	c := client(path)
	switch os.Args[1] {
	case "get":
		fmt.Print(ask(c, args[0], nil))
	case "again": // until told otherwise, on one kept connection
		for {
			fmt.Println(ask(c, args[0], nil))
			time.Sleep(10 * time.Millisecond)
		}
	case "late":
		late(path)
	case "slow":
		slow(c, args[0])
	case "deaf": // asks and does not read
		if _, err := c.Get("http://host" + args[0]); err == nil {
			time.Sleep(time.Hour)
		}
	case "many":
		n, _ := strconv.Atoi(args[1])
		size, _ := strconv.Atoi(args[2])
		many(path, args[0], n, bytes.Repeat([]byte("x"), size))
	}
}

// late reads the answer a second after it asked.
func late(path string) {
	conn, err := net.Dial("unix", path)
	if err == nil {
		_, err = io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n")
	}
	time.Sleep(time.Second)
	if err == nil {
		_, err = io.Copy(os.Stdout, conn)
	}
	fmt.Println("\nended", err)
	time.Sleep(time.Hour)
}

// slow reads a large answer with pauses.
func slow(c *http.Client, url string) {
	res, err := c.Get("http://host" + url)
	if err != nil {
		fmt.Print(err)
		return
	}
	total, buf := 0, make([]byte, 256<<10)
	for err == nil {
		var n int
		n, err = res.Body.Read(buf)
		total += n
		if total%(1<<20) < n {
			time.Sleep(20 * time.Millisecond)
		}
	}
	fmt.Printf("%d bytes", total)
}

// many asks n times at once and counts the different answers.
func many(path, url string, n int, body []byte) {
	var mu sync.Mutex
	var group sync.WaitGroup
	answers := map[string]int{}
	for range n {
		group.Go(func() {
			a := ask(client(path), url, body)
			mu.Lock()
			defer mu.Unlock()
			answers[a]++
		})
	}
	group.Wait()
	for a, n := range answers {
		fmt.Printf("%d times %s\n", n, a)
	}
}
