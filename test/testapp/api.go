package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

// inside speaks with the API by the socket that every machine has.
func inside(socket string) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}}}
}

// callAPI does one call, n times at once, and prints status and answer:
// SOCKET N METHOD PATH BODY [HEADER=VALUE ...]
func callAPI(args []string) (code int) {
	n, _ := strconv.Atoi(args[1])
	answers := map[string]int{}
	var mu sync.Mutex
	var group sync.WaitGroup
	for range n {
		group.Go(func() {
			answer := ask(inside(args[0]), args[2], args[3], args[4], args[5:])
			mu.Lock()
			defer mu.Unlock()
			answers[answer]++
		})
	}
	group.Wait()
	for answer, times := range answers {
		fmt.Printf("%d x %s\n", times, answer)
	}
	return 0
}

func ask(c *http.Client, method, path, body string, headers []string) string {
	r, err := http.NewRequest(method, "http://localhost"+path, strings.NewReader(body))
	if err != nil {
		return err.Error()
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, "=")
		r.Header.Set(name, value)
	}
	resp, err := c.Do(r)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d %s", resp.StatusCode, b)
}

// suspended is the answer to the machine's wish to be suspended.
var suspended atomic.Value

func init() { suspended.Store("") }

// suspendMe asks for it when the visitor has gone.
func suspendMe(_ http.ResponseWriter, _ *http.Request) {
	path := "/v1/apps/" + os.Getenv("FLY_APP_NAME") + "/machines/" + os.Getenv("FLY_MACHINE_ID") + "/suspend"
	go func() { suspended.Store(ask(inside("/.fly/api"), "POST", path, "", nil)) }()
}
