package http1

import "bytes"

const (
	maxExtension = 256     // of one chunk
	maxTrailer   = 8 << 10 // the whole section
)

type chunkState byte

const (
	atSize chunkState = iota
	inExtension
	sizeLF
	inData
	dataCR
	dataLF
	inTrailer
)

// Chunks follows a chunked body through the buffers that it arrives in. The zero value stands before the first chunk.
type Chunks struct {
	// Trailer is the trailer section once the body is done: lines "name: value\r\n".
	Trailer []byte

	state  chunkState
	digits int
	ext    int
	left   int64
}

// Feed goes over b. It returns how many bytes of b belong to the body, framing included, and whether the body ended
// there. With decode, the payload is appended to dst; without, dst is returned as it is: the caller passes b[:n] on.
func (c *Chunks) Feed(dst, b []byte, decode bool) (out []byte, n int, done bool, err error) {
	for n < len(b) {
		if c.state == inData {
			k := int(min(int64(len(b)-n), c.left))
			if decode {
				dst = append(dst, b[n:n+k]...)
			}
			n += k
			if c.left -= int64(k); c.left == 0 {
				c.state = dataCR
			}
			continue
		}
		if c.state == inTrailer {
			k, done, err := c.trailer(b[n:])
			return dst, n + k, done, err
		}
		if err := c.step(b[n]); err != nil {
			return dst, n, false, err
		}
		n++
	}
	return dst, n, false, nil
}

// step takes one byte of framing.
func (c *Chunks) step(b byte) error {
	switch c.state {
	case atSize:
		return c.size(b)
	case inExtension:
		return c.extension(b)
	case sizeLF:
		if b != '\n' {
			return errChunk
		}
		c.digits, c.ext = 0, 0
		if c.state = inData; c.left == 0 {
			c.state = inTrailer
		}
	case dataCR:
		if b != '\r' {
			return errChunk
		}
		c.state = dataLF
	case dataLF:
		if b != '\n' {
			return errChunk
		}
		c.state = atSize
	}
	return nil
}

func (c *Chunks) size(b byte) error {
	d := int64(-1)
	switch low := b | 0x20; {
	case b >= '0' && b <= '9':
		d = int64(b - '0')
	case low >= 'a' && low <= 'f':
		d = int64(low-'a') + 10
	}
	switch {
	case d >= 0 && c.digits < 13:
		c.left = c.left<<4 | d
		c.digits++
	case c.digits > 0 && b == '\r':
		c.state = sizeLF
	case c.digits > 0 && b == ';':
		c.state = inExtension
	default:
		return errChunk
	}
	return nil
}

func (c *Chunks) extension(b byte) error {
	c.ext++
	switch {
	case b == '\r':
		c.state = sizeLF
	case b < 0x20 && b != '\t', b == 0x7f, c.ext > maxExtension:
		return errChunk
	}
	return nil
}

// trailer takes what follows the last chunk, to the blank line.
func (c *Chunks) trailer(b []byte) (n int, done bool, err error) {
	for n < len(b) {
		c.Trailer = append(c.Trailer, b[n])
		n++
		if b[n-1] != '\n' {
			if len(c.Trailer) > maxTrailer {
				return n, false, ErrTooLarge
			}
			continue
		}
		last := c.Trailer[:len(c.Trailer)-1]
		last = last[bytes.LastIndexByte(last, '\n')+1:]
		if len(last) == 1 && last[0] == '\r' {
			c.Trailer = c.Trailer[:len(c.Trailer)-2]
			return n, true, nil
		}
		if !goodTrailer(last) {
			return n, false, errTrailer
		}
	}
	return n, false, nil
}

// goodTrailer says that a line, with its CR, is well-formed and not a header that must stand in a head (RFC 9110, 6.5.1).
func goodTrailer(line []byte) bool {
	n := tokenLen(line)
	if n == 0 || n == len(line) || line[n] != ':' || line[len(line)-1] != '\r' || !clean(line[n+1:len(line)-1]) {
		return false
	}
	name := line[:n]
	return !vital(name) && !Private(name) && !fold(name, "connection") && !fold(name, "te") && !fold(name, "upgrade") &&
		!fold(name, "expect") && !fold(name, "authorization") && !fold(name, "cookie")
}

// AppendChunk appends data as one chunk; the empty chunk, which would end the body, is not written.
func AppendChunk(dst, data []byte) []byte {
	if len(data) == 0 {
		return dst
	}
	return append(append(AppendChunkHead(dst, len(data)), data...), '\r', '\n')
}

// AppendChunkHead appends the line that stands before n bytes of a chunk.
func AppendChunkHead(dst []byte, n int) []byte {
	const hex = "0123456789abcdef"
	shift := 0
	for n>>shift > 15 {
		shift += 4
	}
	for ; shift >= 0; shift -= 4 {
		dst = append(dst, hex[n>>shift&15])
	}
	return append(dst, '\r', '\n')
}
