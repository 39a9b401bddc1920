package router

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/textproto"
	"strings"
	"testing"
)

// TestH2Clear speaks HTTP/2 without TLS to the edge, as some gRPC clients do.
func TestH2Clear(t *testing.T) {
	e := startEdge(t, Config{}, webTable(machine("m1", origin(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Header.Get("X-Forwarded-Proto"))
	}))))
	c := e.client(true)
	c.Transport.(*http.Transport).Protocols.SetUnencryptedHTTP2(true)
	if res, body := get(t, c, "http://app.test"); res.ProtoMajor != 2 || body != "http" {
		t.Errorf("%s %q", res.Proto, body)
	}
}

func TestEarlyHintsOverH2(t *testing.T) {
	e := startEdge(t, Config{}, webTable(machine("m1", rawOrigin(t, answering("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")))))
	var hints []string
	trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		hints = append(hints, fmt.Sprint(code, h.Get("Link")))
		return nil
	}}
	req, _ := http.NewRequestWithContext(httptrace.WithClientTrace(context.Background(), trace), "GET", "https://app.test", nil)
	res, err := e.client(true).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 200 || len(hints) != 1 || hints[0] != "103</a>" || res.Header.Get("Link") != "" {
		t.Errorf("%d, hints %v, %v", res.StatusCode, hints, res.Header)
	}
}

// TestH2Backend has a machine that speaks HTTP/2 only, with gRPC's trailers, for clients of both versions.
func TestH2Backend(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	protos := new(http.Protocols)
	protos.SetUnencryptedHTTP2(true)
	srv := &http.Server{Protocols: protos, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "Grpc-Status")
		w.Header().Set("Content-Type", "application/grpc")
		n, _ := io.Copy(w, r.Body)
		fmt.Fprintf(w, " %s %s %s %d", r.Proto, r.Header.Get("Te"), r.Header.Get("X-Forwarded-For"), n)
		w.Header().Set("Grpc-Status", "0")
	})}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	table := webTable(machine("m1", netip.MustParseAddrPort(l.Addr().String())))
	table.Apps[0].Services[0].Ports = []Port{{Start: 80, Handlers: []string{HandlerHTTP}, H2Backend: true}, {Start: 443, Handlers: []string{HandlerTLS, HandlerHTTP}, H2Backend: true}}
	e := startEdge(t, Config{}, table)
	eachWay(t, e, func(t *testing.T, c *http.Client, base string) {
		for _, body := range []string{"", "hello"} {
			req, _ := http.NewRequest("POST", base, strings.NewReader(body))
			req.Header.Set("Te", "trailers")
			res, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(res.Body)
			res.Body.Close()
			want := fmt.Sprintf("%s HTTP/2.0 trailers 127.0.0.1 %d", body, len(body))
			if string(b) != want || err != nil || res.Trailer.Get("Grpc-Status") != "0" {
				t.Errorf("%q, want %q; trailer %v, %v", b, want, res.Trailer, err)
			}
		}
	})
	waitFor(t, "nothing in flight", func() bool { n, _ := e.Activity("m1"); return n == 0 })
}
