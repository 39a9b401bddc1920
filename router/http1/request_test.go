package http1

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
)

func crlf(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }

func TestRequestIsPassedOn(t *testing.T) {
	tests := []struct{ name, in, out string }{
		{"plain", "GET /a?b=c HTTP/1.1\nHost: x.test\nAccept: */*\n\n", "GET /a?b=c HTTP/1.1\nHost: x.test\nAccept: */*\n"},
		{"hop by hop", "GET / HTTP/1.1\nHost: x\nConnection: close, X-Mine\nX-Mine: 1\nKeep-Alive: 5\nTE: gzip\nProxy-Connection: x\nProxy-Authorization: y\nA: b\n\n",
			"GET / HTTP/1.1\nHost: x\nA: b\n"},
		{"claims about the client", "GET / HTTP/1.1\nX-Forwarded-For: 1.1.1.1\nx_forwarded_for: 2.2.2.2\nForwarded: for=3\nX-Real-IP: 4\nFly-Client-IP: 5\nX-Forwarded-Proto: https\nX-Forwarded-Host: h\nX-Forwarded-Port: 1\nX-Forwarded-Ssl: on\nFly-Region: moon\nFly-Forwarded-Port: 1\nX-Request-Id: 7\nHost: x\n\n",
			"GET / HTTP/1.1\nHost: x\n"},
		{"absolute target", "GET http://y.test:81?q HTTP/1.1\nHost: x\nA: b\n\n", "GET /?q HTTP/1.1\nHost: y.test:81\nA: b\n"},
		{"http 1.0", "GET / HTTP/1.0\nHost: x\n\n", "GET / HTTP/1.1\nHost: x\n"},
		{"stray empty line", "\nGET / HTTP/1.1\nHost: x\n\n", "GET / HTTP/1.1\nHost: x\n"},
		{"chunked", "POST / HTTP/1.1\nHost: x\nTransfer-Encoding: Chunked\n\n", "POST / HTTP/1.1\nHost: x\n"},
		{"length in another spelling", "POST / HTTP/1.1\nHost: x\nContent_Length: 5\nTransfer_Encoding: chunked\n\n", "POST / HTTP/1.1\nHost: x\n"},
		{"options star", "OPTIONS * HTTP/1.1\nHost: x\n\n", "OPTIONS * HTTP/1.1\nHost: x\n"},
	}
	for _, tt := range tests {
		var q Request
		in := []byte(crlf(tt.in))
		out, err := AppendRequest([]byte("before"), in, 1<<15, &q)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if got := string(out); got != "before"+crlf(tt.out) {
			t.Errorf("%s: passed on\n%q, want\n%q", tt.name, got, "before"+crlf(tt.out))
		}
		if q.Len != len(in) {
			t.Errorf("%s: Len = %d, want %d", tt.name, q.Len, len(in))
		}
	}
}

func TestRequestFacts(t *testing.T) {
	var q Request
	in := crlf("POST /x HTTP/1.1\nhOST: A.Test:8080\nContent-Length: 12\nExpect: 100-continue\nTE: trailers, deflate\nX-Request-Id: abc\nX-Forwarded-For: 9.9.9.9\nFly-Force-Instance-Id: m1\nFly-Prefer-Instance-Id: m2\nAccept: text/html\nConnection: close\n\nbody")
	if _, err := AppendRequest(nil, []byte(in), 1<<15, &q); err != nil {
		t.Fatal(err)
	}
	got := []string{string(q.Method), string(q.Target), string(q.Host), string(q.RequestID), string(q.ForwardedFor), string(q.Force), string(q.Prefer), string(q.Accept)}
	want := []string{"POST", "/x", "A.Test:8080", "abc", "9.9.9.9", "m1", "m2", "text/html"}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("field %d = %q, want %q", i, got[i], want[i])
		}
	}
	if q.ContentLength != 12 || !q.Continue || !q.Trailers || !q.Close || !q.HasBody() || q.Idempotent() || q.Chunked || q.Upgrade != nil {
		t.Errorf("facts wrong: %+v", q)
	}
	in = crlf("GET /ws HTTP/1.1\nHost: x\nConnection: keep-alive, Upgrade\nUpgrade: websocket\n\n")
	if _, err := AppendRequest(nil, []byte(in), 1<<15, &q); err != nil || string(q.Upgrade) != "websocket" || q.Close {
		t.Errorf("upgrade: %q, close %v, %v", q.Upgrade, q.Close, err)
	}
	in = crlf("GET /ws HTTP/1.1\nHost: x\nConnection: Upgrade, HTTP2-Settings\nUpgrade: h2c\nHTTP2-Settings: x\n\n")
	if out, err := AppendRequest(nil, []byte(in), 1<<15, &q); err != nil || q.Upgrade != nil || strings.Contains(string(out), "Settings") {
		t.Errorf("h2c upgrade passed: %q %q %v", out, q.Upgrade, err)
	}
}

// TestSmuggling lists what two parsers could read in two ways. All of it must be refused.
func TestSmuggling(t *testing.T) {
	const post = "POST / HTTP/1.1\r\nHost: x\r\n"
	tests := []struct {
		name, in string
		err      error
	}{
		{"CL and TE", post + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n", errTwoLengths},
		{"TE and CL", post + "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n", errTwoLengths},
		{"two CL", post + "Content-Length: 4\r\nContent-Length: 5\r\n\r\n", errLength},
		{"same CL twice", post + "Content-Length: 4\r\nContent-Length: 4\r\n\r\n", errLength},
		{"CL list", post + "Content-Length: 4, 4\r\n\r\n", errLength},
		{"CL plus", post + "Content-Length: +4\r\n\r\n", errLength},
		{"CL minus", post + "Content-Length: -4\r\n\r\n", errLength},
		{"CL hex", post + "Content-Length: 0x4\r\n\r\n", errLength},
		{"CL huge", post + "Content-Length: 99999999999999999999\r\n\r\n", errLength},
		{"CL empty", post + "Content-Length:\r\n\r\n", errLength},
		{"CL inner space", post + "Content-Length: 1 2\r\n\r\n", errLength},
		{"TE identity", post + "Transfer-Encoding: identity\r\n\r\n", ErrCoding},
		{"TE list", post + "Transfer-Encoding: gzip, chunked\r\n\r\n", ErrCoding},
		{"TE chunked twice", post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", ErrCoding},
		{"TE vertical tab", post + "Transfer-Encoding: \x0bchunked\r\n\r\n", errField},
		{"TE quoted", post + "Transfer-Encoding: \"chunked\"\r\n\r\n", ErrCoding},
		{"TE in 1.0", "POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", errTwoLengths},
		{"space before colon", post + "Transfer-Encoding : chunked\r\n\r\n", errField},
		{"folded line", post + "X: a\r\n b\r\n\r\n", errField},
		{"folded first line", "POST / HTTP/1.1\r\n Host: x\r\n\r\n", errField},
		{"bare LF in head", post + "X: a\nY: b\r\n\r\n", errBareLF},
		{"bare LF at the end", post + "X: a\r\n\n", errBareLF},
		{"bare LF in request line", "GET / HTTP/1.1\nHost: x\r\n\r\n", errBareLF},
		{"bare CR in value", post + "X: a\rContent-Length: 3\r\n\r\n", errField},
		{"NUL in value", post + "X: a\x00b\r\n\r\n", errField},
		{"NUL in name", post + "X\x00: a\r\n\r\n", errField},
		{"no name", post + ": a\r\n\r\n", errField},
		{"no colon", post + "abc\r\n\r\n", errField},
		{"two hosts", "GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", errHost},
		{"no host", "GET / HTTP/1.1\r\nX: y\r\n\r\n", errHost},
		{"empty host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", errHost},
		{"host with path", "GET / HTTP/1.1\r\nHost: x/y\r\n\r\n", errHost},
		{"host with user", "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", errHost},
		{"user in target", "GET http://a@b/ HTTP/1.1\r\nHost: x\r\n\r\n", errHost},
		{"Connection names Host", "GET / HTTP/1.1\r\nHost: x\r\nConnection: host\r\n\r\n", errNominated},
		{"Connection names length", post + "Connection: content-length\r\nContent-Length: 3\r\n\r\n", errNominated},
		{"space in target", "GET /a b HTTP/1.1\r\nHost: x\r\n\r\n", errStartLine},
		{"tab in target", "GET /a\tb HTTP/1.1\r\nHost: x\r\n\r\n", errStartLine},
		{"tab after method", "GET\t/ HTTP/1.1\r\nHost: x\r\n\r\n", errStartLine},
		{"no target", "GET HTTP/1.1\r\nHost: x\r\n\r\n", errStartLine},
		{"relative target", "GET a HTTP/1.1\r\nHost: x\r\n\r\n", errStartLine},
		{"HTTP/0.9", "GET /\r\n\r\n", errStartLine},
		{"HTTP/1.2", "GET / HTTP/1.2\r\nHost: x\r\n\r\n", ErrVersion},
		{"HTTP/2.0", "GET / HTTP/2.0\r\nHost: x\r\n\r\n", ErrVersion},
		{"HTTP/11", "GET / HTTP/11\r\nHost: x\r\n\r\n", errStartLine},
		{"lower case", "GET / http/1.1\r\nHost: x\r\n\r\n", errStartLine},
		{"two empty lines before", "\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", errStartLine},
		{"endless", "GET /" + strings.Repeat("a", 1<<12) + " HTTP/1.1\r\nHost: x\r\n\r\n", ErrTooLarge},
		{"unfinished", "GET / HTTP/1.1\r\nHost: x\r\n", ErrMore},
		{"unfinished CR", "GET / HTTP/1.1\r\nHost: x\r\n\r", ErrMore},
	}
	for _, tt := range tests {
		var q Request
		out, err := AppendRequest([]byte("p"), []byte(tt.in), 1<<12, &q)
		if !errors.Is(err, tt.err) {
			t.Errorf("%s: error %v, want %v", tt.name, err, tt.err)
		}
		if string(out) != "p" {
			t.Errorf("%s: passed on %q", tt.name, out)
		}
	}
}

func TestResponse(t *testing.T) {
	var s Response
	in := crlf("HTTP/1.0 200 Fine\nContent-Length: 3\nContent-Length: 3\nConnection: keep-alive, X-Hop\nX-Hop: 1\nKeep-Alive: timeout=5, max=9\nfly-request-id: z\nServer: s\n\nabc")
	out, err := AppendResponse(nil, []byte(in), 1<<15, &s)
	if err != nil || string(out) != crlf("HTTP/1.1 200 Fine\nContent-Length: 3\nServer: s\n") {
		t.Errorf("%q, %v", out, err)
	}
	if s.Status != 200 || s.ContentLength != 3 || s.Close || s.KeepAlive != 5 || s.Len != len(in)-3 {
		t.Errorf("facts wrong: %+v", s)
	}
	for _, bad := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n",
		"HTTP/1.1 20 OK\r\n\r\n", "HTTP/1.1 2000 OK\r\n\r\n", "HTTP/2 200 OK\r\n\r\n", "HTTP/1.1 200 OK\nA: b\r\n\r\n", "SSH-2.0-OpenSSH_9\r\n",
		"HTTP/1.1 099 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
	} {
		if _, err := AppendResponse(nil, []byte(bad), 1<<15, &s); err == nil || errors.Is(err, ErrMore) {
			t.Errorf("%q: error %v", bad, err)
		}
	}
	if _, err := AppendResponse(nil, []byte("HTTP/1.1 204\r\n\r\n"), 1<<15, &s); err != nil || s.Status != 204 {
		t.Errorf("no reason phrase: %v", err)
	}
}

func TestChunks(t *testing.T) {
	good := []struct{ name, in, body, trailer string }{
		{"plain", "4\r\nWiki\r\n5\r\npedia\r\n0\r\n\r\n", "Wikipedia", ""},
		{"extension", "4;a=\"b\"\r\nWiki\r\n0;x\r\n\r\n", "Wiki", ""},
		{"trailer", "1\r\na\r\n0\r\nX-Sum: 1\r\nY: 2\r\n\r\n", "a", "X-Sum: 1\r\nY: 2\r\n"},
		{"upper hex", "A\r\n0123456789\r\n000\r\n\r\n", "0123456789", ""},
		{"empty", "0\r\n\r\n", "", ""},
	}
	for _, tt := range good {
		for step := 1; step <= len(tt.in); step++ { // in every cut
			body, trailer, n, done, err := feedAll(tt.in+"NEXT", step)
			if err != nil || !done || body != tt.body || trailer != tt.trailer || n != len(tt.in) {
				t.Fatalf("%s in steps of %d: %q, %q, %d, %v, %v", tt.name, step, body, trailer, n, done, err)
			}
		}
	}
	for _, bad := range []string{
		"\r\n", "g\r\n", "+1\r\na\r\n", "0x1\r\na\r\n", "1 \r\na\r\n", "1\na\r\n", "1\r\nab\r\n", "1\r\na\n0\r\n\r\n", "1\r\na0\r\n", "-1\r\n", " 1\r\na\r\n",
		"ffffffffffffffff\r\n", "1;a\nb\r\na\r\n", "1;" + strings.Repeat("x", 300) + "\r\n", "0\r\nContent-Length: 3\r\n\r\n", "0\r\nTransfer-Encoding: chunked\r\n\r\n",
		"0\r\nX: a\n\r\n", "0\r\n folded\r\n\r\n", "0\r\nX-Forwarded-For: 1\r\n\r\n", "0\r\n\n", "0\r\n" + strings.Repeat("X: aaaaaaaaaaaaaaaaaaaa\r\n", 500),
	} {
		if _, _, _, done, err := feedAll(bad, len(bad)); err == nil || done {
			t.Errorf("%.40q was taken", bad)
		}
	}
}

func feedAll(in string, step int) (body, trailer string, n int, done bool, err error) {
	var c Chunks
	var out []byte
	for n < len(in) && !done && err == nil {
		var k int
		out, k, done, err = c.Feed(out, []byte(in[n:min(n+step, len(in))]), true)
		n += k
	}
	return string(out), string(c.Trailer), n, done, err
}

func TestAppendChunk(t *testing.T) {
	for _, n := range []int{1, 15, 16, 255, 256, 4096, 70000} {
		data := bytes.Repeat([]byte("x"), n)
		body, _, _, done, err := feedAll(string(AppendChunk(nil, data))+"0\r\n\r\n", 1<<20)
		if err != nil || !done || len(body) != n {
			t.Errorf("chunk of %d: %d bytes, %v, %v", n, len(body), done, err)
		}
	}
}

// FuzzHead checks that what is passed on means to a strict second parser (net/http's) what it meant to ours, and that it
// is passed on unchanged the second time.
func FuzzHead(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\nHost: x\n\n", "POST /a HTTP/1.1\nHost: x\nContent-Length: 3\n\nabc", "POST /a HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\n\n0\n\n",
		"GET http://a.b/c HTTP/1.0\nConnection: X-A, close\nX-A: 1\n\n", "GET / HTTP/1.1\nHost: x\nConnection: upgrade\nUpgrade: websocket\n\n", "GET / HTTP/1.1\nHost:x\nX: \x80\n\n",
	} {
		f.Add([]byte(crlf(s)))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var q, again Request
		out, err := AppendRequest(nil, in, 1<<14, &q)
		if err != nil {
			if len(out) != 0 {
				t.Fatalf("refused, but %q passed on", out)
			}
			return
		}
		if q.Len > len(in) || len(q.Host) == 0 && q.Minor == 1 {
			t.Fatalf("facts wrong: %+v", q)
		}
		if len(q.Host) == 0 {
			return
		}
		framed := append([]byte(nil), out...)
		if q.Chunked {
			framed = append(framed, "Transfer-Encoding: chunked\r\n"...)
		}
		framed = append(framed, "\r\n"...)
		out2, err := AppendRequest(nil, framed, 1<<16, &again)
		if err != nil || !bytes.Equal(out, out2) || again.ContentLength != q.ContentLength || again.Chunked != q.Chunked || !bytes.Equal(again.Host, q.Host) {
			t.Fatalf("%q came out as %q and then as %q, %v", in, out, out2, err)
		}
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(framed)))
		if err != nil {
			return // stricter than we are
		}
		length := r.ContentLength
		if q.Chunked != (len(r.TransferEncoding) == 1) || !q.Chunked && length != max(q.ContentLength, 0) || r.Host != string(q.Host) {
			t.Fatalf("net/http reads %q as length %d, coding %v, host %q; we as %+v", framed, length, r.TransferEncoding, r.Host, q)
		}
	})
}

func FuzzResponse(f *testing.F) {
	f.Add([]byte(crlf("HTTP/1.1 200 OK\nContent-Length: 3\n\nabc")))
	f.Add([]byte(crlf("HTTP/1.0 304 Not Modified\nConnection: a, b\nA: 1\n\n")))
	f.Add([]byte(crlf("HTTP/1.1 200\nTransfer-Encoding: chunked\n\n0\n\n")))
	f.Fuzz(func(t *testing.T, in []byte) {
		var s Response
		out, err := AppendResponse(nil, in, 1<<14, &s)
		if err != nil {
			return
		}
		r, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(append(out, "\r\n"...))), nil)
		if err == nil && (r.StatusCode != s.Status || s.ContentLength >= 0 && r.ContentLength != s.ContentLength && s.Status != 204 && s.Status != 304 && s.Status >= 200) {
			t.Fatalf("net/http reads %q as %d, %d; we as %+v", out, r.StatusCode, r.ContentLength, s)
		}
	})
}

// FuzzChunks checks that what we take for a body is one for net/http, with the same bytes in it.
func FuzzChunks(f *testing.F) {
	f.Add([]byte("4\r\nWiki\r\n5\r\npedia\r\n0\r\nX: y\r\n\r\nmore"), 3)
	f.Add([]byte("1;a=b\r\na\r\n0\r\n\r\n"), 1)
	f.Fuzz(func(t *testing.T, in []byte, step int) {
		body, _, n, done, err := feedAll(string(in), step&15+1)
		if err != nil || !done {
			return
		}
		head := "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(head + string(in[:n]))))
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := io.ReadAll(r.Body)
		if err == nil && string(theirs) != body {
			t.Fatalf("net/http reads %q from %q, we %q", theirs, in, body)
		}
	})
}
