package router

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// page answers for the router itself, and says whether the connection may be used again.
func (c *conn) page(rf *refusal) bool {
	q := &c.req
	if rf.status == http.StatusMovedPermanently {
		return c.redirect()
	}
	kind, body := pageBody(rf, string(q.Accept), c.id)
	again := !q.Close && !q.HasBody() && q.Upgrade == nil && !c.ending() && rf.status != http.StatusBadRequest
	out := fmt.Appendf(nil, "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\nCache-Control: no-store\r\nfly-request-id: %s\r\n",
		rf.status, http.StatusText(rf.status), kind, len(body), c.id)
	if c.mesh {
		body = append(body[:0], rf.reason...)
		again = again || c.bodyHere() > 0 && !q.Close && rf.status != http.StatusBadRequest
		out = fmt.Appendf(out[:0], "HTTP/1.1 %d %s\r\nContent-Length: %d\r\n", rf.status, http.StatusText(rf.status), len(body))
		out = c.report(out, rf.code)
	}
	if rf.retry > 0 {
		out = fmt.Appendf(out, "Retry-After: %d\r\n", rf.retry)
	}
	return c.say(out, body, again)
}

// say sends a head that lacks its end, and a body.
func (c *conn) say(out, body []byte, again bool) bool {
	switch {
	case !again:
		out = append(out, "Connection: close\r\n"...)
	case c.req.Minor == 0:
		out = append(out, "Connection: keep-alive\r\n"...)
	}
	out = append(out, "\r\n"...)
	if string(c.req.Method) != "HEAD" {
		out = append(out, body...)
	}
	if _, err := c.c.Write(out); err != nil {
		return false
	}
	if !again {
		c.linger()
		return false
	}
	return c.skip(c.req.Len + c.bodyHere())
}

// bodyHere is the length of the request's body if all of it has been read together with the head; else 0.
func (c *conn) bodyHere() int {
	if n := c.req.ContentLength; n > 0 && int64(c.n-c.req.Len) >= n {
		return int(n)
	}
	return 0
}

// pageBody is the text of an error, as JSON if the client would rather have that.
func pageBody(rf *refusal, accept string, id []byte) (kind string, body []byte) {
	if strings.Contains(accept, "json") {
		body, _ = json.Marshal(map[string]any{"error": rf.reason, "status": rf.status, "request_id": string(id)})
		return "application/json", append(body, '\n')
	}
	return "text/plain; charset=utf-8", fmt.Appendf(nil, "%d %s\n\n%s\n\nrequest id %s\n", rf.status, http.StatusText(rf.status), rf.reason, id)
}

func (c *conn) redirect() bool {
	to := c.r.httpsURL(string(c.req.Host), string(c.req.Target))
	out := fmt.Appendf(nil, "HTTP/1.1 301 Moved Permanently\r\nLocation: %s\r\nContent-Length: 0\r\nfly-request-id: %s\r\n", to, c.id)
	return c.say(out, nil, !c.req.Close && !c.req.HasBody() && !c.ending())
}

// httpsURL is where a plain request should have gone. A client that named a port came to where we really listen, and
// not through a translation of port 80; it is sent to where we really listen for 443.
func (r *Router) httpsURL(host, target string) string {
	if h, port, err := net.SplitHostPort(host); err == nil {
		host = h
		if l, ok := r.Addr(443).(*net.TCPAddr); ok && port != "80" && l.Port != 443 {
			host = net.JoinHostPort(h, strconv.Itoa(l.Port))
		}
	}
	return "https://" + host + target
}

// linger closes the connection so that the client can read what was sent: unread input would make the kernel reset it.
func (c *conn) linger() {
	closeWrite(c.c)
	_ = c.c.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	_, _ = io.CopyN(io.Discard, c.c, 256<<10)
	_ = c.c.Close()
}

// identify gives the request an id: the client's own, if it is 1 to 64 letters, digits or any of "-_.:+/=", else a new
// one of 26 digits and letters.
func (c *conn) identify() {
	if goodID(c.req.RequestID) {
		c.id = append(c.idBuf[:0], c.req.RequestID...)
		return
	}
	c.id = newID(c.idBuf[:0])
}

func goodID(id []byte) bool {
	for _, b := range id {
		if !(b|0x20 >= 'a' && b|0x20 <= 'z' && b < 128 || b >= '0' && b <= '9' || bytes.IndexByte([]byte("-_.:+/="), b) >= 0) {
			return false
		}
	}
	return len(id) > 0 && len(id) <= 64
}

func newID(dst []byte) []byte {
	const digits = "0123456789abcdefghjkmnpqrstvwxyz"
	for range 2 {
		x := rand.Uint64()
		for range 13 {
			dst = append(dst, digits[x&31])
			x >>= 5
		}
	}
	return dst
}

func appendID(out, id []byte) []byte {
	out = append(append(out, "X-Request-Id: "...), id...)
	out = append(append(out, "\r\nFly-Request-Id: "...), id...)
	return append(out, "\r\n"...)
}

// about appends the header lines that tell a machine who the client is. via is the client's X-Forwarded-For, if it is
// to be believed.
func (r *Router) about(out []byte, ip string, via []byte, port int, secure bool) []byte {
	proto, ssl := "http", "off"
	if secure {
		proto, ssl = "https", "on"
	}
	chain := ip
	if len(via) > 0 {
		chain = string(via) + ", " + ip
		ip = r.firstStranger(via, ip)
	}
	number := strconv.Itoa(port)
	for _, line := range [...][2]string{ // fmt would cost a new connection as much as a system call does
		{"X-Forwarded-For: ", chain}, {"X-Forwarded-Proto: ", proto}, {"X-Forwarded-Port: ", number}, {"X-Forwarded-Ssl: ", ssl},
		{"Fly-Client-Ip: ", ip}, {"Fly-Forwarded-Proto: ", proto}, {"Fly-Forwarded-Port: ", number}, {"Fly-Forwarded-Ssl: ", ssl},
		{"Fly-Region: ", r.cfg.Region}, {"Via: ", "1.1 perigee"},
	} {
		out = append(append(append(out, line[0]...), line[1]...), "\r\n"...)
	}
	return out
}

// firstStranger is the last address of the chain that is not a trusted proxy: the client, as far as we can know.
func (r *Router) firstStranger(via []byte, ip string) string {
	hops := bytes.Split(via, []byte(","))
	for i := len(hops) - 1; i >= 0; i-- {
		a, err := netip.ParseAddr(string(bytes.TrimSpace(hops[i])))
		if err != nil {
			return ip
		}
		if ip = a.WithZone("").String(); !r.trusted(a) {
			return ip
		}
	}
	return ip
}

func (r *Router) trusts(c net.Conn) bool {
	return len(r.cfg.TrustedProxies) > 0 && r.trusted(peerAddr(c).Addr())
}

func (r *Router) trustsIP(ip string) bool {
	a, err := netip.ParseAddr(ip)
	return err == nil && r.trusted(a)
}

func (r *Router) trusted(a netip.Addr) bool {
	for _, p := range r.cfg.TrustedProxies {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

func peerIP(c net.Conn) string { return peerAddr(c).Addr().String() }

func peerAddr(c net.Conn) netip.AddrPort { return unmapped(c.RemoteAddr()) }

func unmapped(a net.Addr) netip.AddrPort {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := t.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
