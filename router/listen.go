package router

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// listenOwn opens the ports that are the router's own; an error here is the operator's to solve.
func (r *Router) listenOwn() error {
	for _, port := range []int{80, 443} {
		if p := r.routes.Load().ports[port]; p == nil || p.holder != "" {
			continue
		}
		if err := r.listen(port); err != nil {
			return err
		}
	}
	return nil
}

// listenAll opens what the table wants open and closes the rest.
func (r *Router) listenAll() {
	rt := r.routes.Load()
	var deaf []Problem
	for port, p := range rt.ports {
		if err := r.listen(port); err != nil {
			deaf = append(deaf, Problem{App: p.holder, Port: port, Err: err})
		}
	}
	r.mu.Lock()
	for port, l := range r.listeners {
		if rt.ports[port] == nil {
			_ = l.Close()
			delete(r.listeners, port)
		}
	}
	r.deaf = deaf
	r.mu.Unlock()
	r.tellProblems()
}

func (r *Router) listen(port int) error {
	at := cmp.Or(r.cfg.Listen[port], ":"+strconv.Itoa(port))
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.listeners[port] != nil || at == "off" || r.draining.Load() || r.leaving.Load() {
		return nil
	}
	l := r.cfg.Inherited[strconv.Itoa(port)]
	if l == nil || r.inherited[port] {
		lc := net.ListenConfig{Control: r.onSocket, KeepAlive: -1}
		var err error
		if l, err = lc.Listen(context.Background(), "tcp", at); err != nil {
			return listenError(port, at, err)
		}
	}
	r.inherited[port] = true // once only: a port that was closed is opened anew
	r.listeners[port] = l
	r.accepting.Add(1)
	r.goes.Go(func() {
		defer r.accepting.Done()
		r.acceptAll(l, strconv.Itoa(port), func(c net.Conn) { r.serve(c, port) })
	})
	return nil
}

func listenError(port int, at string, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("cannot listen on %s for port %d: another program of this host has it; stop that one, or listen elsewhere: %w", at, port, err)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("cannot listen on %s for port %d: it needs root or CAP_NET_BIND_SERVICE, or listen elsewhere: %w", at, port, err)
	}
	return fmt.Errorf("cannot listen on %s for port %d: %w", at, port, err)
}

// onSocket sets what accepted connections inherit, so that it costs nothing for each: the kernel ends those whose peer
// takes no bytes for StallTimeout, and asks silent ones every now and then whether they are still there.
func (r *Router) onSocket(_, _ string, rc syscall.RawConn) (err error) {
	e := rc.Control(func(fd uintptr) {
		set := func(level, option, value int) {
			err = errors.Join(err, unix.SetsockoptInt(int(fd), level, option, value))
		}
		set(unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(r.cfg.StallTimeout.Milliseconds()))
		set(unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
		set(unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 30)
		set(unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 15)
	})
	return errors.Join(e, err)
}

func (r *Router) acceptAll(l net.Listener, port string, serve func(net.Conn)) {
	for {
		c, err := l.Accept()
		if err == nil {
			r.enterLive(arrival{c})
			r.goes.Go(func() {
				defer r.leaveLive(arrival{c})
				serve(c)
			})
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		r.log.Warn("cannot accept", "port", port, "err", err) // out of descriptors, most likely
		if !pause(r.life, 10*time.Millisecond) {
			return
		}
	}
}

func (r *Router) closeListeners() {
	r.closePublic()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.hostIn != nil {
		_ = r.hostIn.Close()
		r.hostIn = nil
	}
	for _, l := range r.cfg.Own {
		_ = l.Close()
	}
}

func (r *Router) closePublic() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for port, l := range r.listeners {
		_ = l.Close()
		delete(r.listeners, port)
	}
}

// Addr is where a public port is listened on, nil if it is not.
func (r *Router) Addr(port int) net.Addr {
	r.mu.Lock()
	defer r.mu.Unlock()
	if l := r.listeners[port]; l != nil {
		return l.Addr()
	}
	return nil
}

// Problems is everything in the present table that cannot be done.
func (r *Router) Problems() []Problem {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.problems()
}

func (r *Router) problems() []Problem {
	all := append(slices.Clone(r.routes.Load().problems), r.deaf...)
	slices.SortStableFunc(all, func(a, b Problem) int { return strings.Compare(a.Err.Error(), b.Err.Error()) })
	return all
}

// tellProblems reports the problems if they have changed.
func (r *Router) tellProblems() {
	r.telling.Lock()
	defer r.telling.Unlock()
	r.mu.Lock()
	all := r.problems()
	var text strings.Builder
	for _, p := range all {
		text.WriteString(p.Err.Error() + "\n")
	}
	same := text.String() == r.told
	r.told = text.String()
	r.mu.Unlock()
	if same {
		return
	}
	for _, p := range all {
		r.log.Warn("the router cannot do all that apps ask for", "app", p.App, "err", p.Err)
	}
	if r.cfg.OnProblems != nil {
		r.cfg.OnProblems(all)
	}
}
