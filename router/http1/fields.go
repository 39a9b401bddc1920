package http1

import "bytes"

// lines walks over the header lines at buf[p:] and copies to dst, in as few runs as possible, those for which keep
// says so. It returns where the head ends, after the blank line.
func lines(dst, buf []byte, p, limit int, keep func(name, value []byte) (bool, error)) ([]byte, int, error) {
	run := p
	for {
		rest := buf[p:]
		i := bytes.IndexByte(rest, '\n')
		if i < 0 {
			return dst, 0, more(len(buf), limit)
		}
		if p+i+1 > limit {
			return dst, 0, ErrTooLarge
		}
		if i == 0 || rest[i-1] != '\r' {
			return dst, 0, errBareLF
		}
		if i == 1 {
			return append(dst, buf[run:p]...), p + 2, nil
		}
		line := rest[:i-1]
		n := tokenLen(line)
		if n == 0 || n == len(line) || line[n] != ':' || !clean(line[n+1:]) {
			return dst, 0, errField
		}
		ok, err := keep(line[:n], line[n+1:])
		if err != nil {
			return dst, 0, err
		}
		if !ok {
			dst = append(dst, buf[run:p]...)
			run = p + i + 1
		}
		p += i + 1
	}
}

func more(have, limit int) error {
	if have >= limit {
		return ErrTooLarge
	}
	return ErrMore
}

// connection is what the Connection lines of a message said.
type connection struct {
	close, keepAlive, upgrade bool
	named                     bool // some line names other headers
}

func (c *connection) line(value []byte) error {
	v := trim(value)
	switch {
	case fold(v, "close"):
		c.close = true
	case fold(v, "keep-alive"):
		c.keepAlive = true
	default:
		return c.list(v)
	}
	return nil
}

func (c *connection) list(v []byte) (err error) {
	eachToken(v, func(t []byte) {
		switch {
		case fold(t, "close"):
			c.close = true
		case fold(t, "keep-alive"):
			c.keepAlive = true
		case fold(t, "upgrade"):
			c.upgrade = true
		case tokenLen(t) != len(t), vital(t):
			err = errNominated
		default:
			c.named = true
		}
	})
	return err
}

// vital headers may not be named by Connection: without them the message would mean something else.
func vital(t []byte) bool {
	return fold(t, "host") || fold(t, "content-length") || fold(t, "transfer-encoding") || fold(t, "trailer")
}

// dropNamed removes from head, the lines copied so far, those that the Connection lines of buf name.
func dropNamed(head, buf []byte) []byte {
	var names [][]byte
	Fields(afterLine(buf), func(name, value []byte) {
		if fold(name, "connection") {
			eachToken(value, func(t []byte) { names = append(names, t) })
		}
	})
	kept := head[:len(head)-len(afterLine(head))]
	for rest := afterLine(head); len(rest) > 0; {
		i := bytes.IndexByte(rest, '\n') + 1
		if !named(names, rest[:bytes.IndexByte(rest, ':')]) {
			kept = append(kept, rest[:i]...)
		}
		rest = rest[i:]
	}
	return kept
}

func named(names [][]byte, name []byte) bool {
	for _, n := range names {
		if bytes.EqualFold(n, name) {
			return true
		}
	}
	return false
}

func afterLine(b []byte) []byte {
	return b[bytes.IndexByte(b, '\n')+1:]
}
