package door

import (
	"net"
	"sync"
)

// MaxConnsPerAsker bounds the TCP connections of one asker, so that none can
// use up the node's file descriptors.
const MaxConnsPerAsker = 32

// fairListener turns away the connections of who has too many.
type fairListener struct {
	net.Listener

	mu   sync.Mutex // guards open
	open map[string]int
}

func newFairListener(l net.Listener) *fairListener {
	return &fairListener{Listener: l, open: map[string]int{}}
}

func (l *fairListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
		if l.take(host) {
			return &fairConn{Conn: c, done: sync.OnceFunc(func() { l.give(host) })}, nil
		}
		c.Close()
	}
}

func (l *fairListener) take(host string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[host] >= MaxConnsPerAsker {
		return false
	}
	l.open[host]++
	return true
}

func (l *fairListener) give(host string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[host]--; l.open[host] == 0 {
		delete(l.open, host)
	}
}

type fairConn struct {
	net.Conn
	done func()
}

func (c *fairConn) Close() error {
	c.done()
	return c.Conn.Close()
}
