package http1

import (
	"bytes"
	"encoding/binary"
	"errors"
)

var (
	// ErrMore says that the head is not complete yet.
	ErrMore = errors.New("incomplete head")
	// ErrTooLarge says that the head, or a trailer, is larger than allowed.
	ErrTooLarge = errors.New("head too large")
	// ErrVersion says that the message is of an HTTP version that is not 1.0 or 1.1.
	ErrVersion = errors.New("http version not supported")
	// ErrCoding says that the body has a transfer coding other than chunked.
	ErrCoding = errors.New("transfer coding not supported")
)

// A BadError is a message that HTTP/1 does not allow; its text says what was wrong with it.
type BadError string

// Error says what is malformed.
func (e BadError) Error() string { return string(e) }

// Reasons, in the words that the client reads.
const (
	errStartLine  BadError = "malformed request line"
	errStatusLine BadError = "malformed status line"
	errField      BadError = "malformed header line"
	errBareLF     BadError = "line ends without CR"
	errLength     BadError = "malformed or repeated content-length"
	errTwoLengths BadError = "both content-length and transfer-encoding"
	errHost       BadError = "malformed, missing or repeated host"
	errNominated  BadError = "connection names a header that it may not name"
	errChunk      BadError = "malformed chunked body"
	errTrailer    BadError = "malformed or forbidden trailer"
)

var tokenByte = func() (t [256]bool) {
	const others = "!#$%&'*+-.^_`|~"
	for c := range 256 {
		letter := c|0x20 >= 'a' && c|0x20 <= 'z' && c < 128
		t[c] = letter || c >= '0' && c <= '9' || bytes.IndexByte([]byte(others), byte(c)) >= 0
	}
	return
}()

// tokenLen is how many bytes at the start of b form a token.
func tokenLen(b []byte) int {
	for i, c := range b {
		if !tokenByte[c] {
			return i
		}
	}
	return len(b)
}

// clean says that b has no control bytes but tabs. It looks at eight bytes at a time, and only at a suspect group
// byte by byte: the subtraction's borrow may raise a false alarm but never hides one.
func clean(b []byte) bool {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	for ; len(b) >= 8; b = b[8:] {
		x := binary.LittleEndian.Uint64(b)
		del := x ^ ones*0x7f
		if ((x-ones*0x20)&^x|(del-ones)&^del)&tops != 0 && !cleanSlow(b[:8]) {
			return false
		}
	}
	return cleanSlow(b)
}

func cleanSlow(b []byte) bool {
	for _, c := range b {
		if c < 0x20 && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// fold says that b is lower, whatever its case; lower must be lower case.
func fold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i := range b {
		c := b[i]
		if c-'A' < 26 {
			c |= 0x20
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// foldLoose is fold that also takes "_" for "-": gateways of the CGI family hand both to the app as one name.
func foldLoose(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i := range b {
		c := b[i]
		if c-'A' < 26 {
			c |= 0x20
		} else if c == '_' {
			c = '-'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

// ParseLength reads a Content-Length: digits only, below 10^18.
func ParseLength(b []byte) (int64, bool) {
	if len(b) == 0 || len(b) > 18 {
		return 0, false
	}
	var n int64
	for _, c := range b {
		if c-'0' > 9 {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

// Fields calls fn for each line "name: value\r\n" of lines, which must be well-formed, as Append's output is.
func Fields(lines []byte, fn func(name, value []byte)) {
	for len(lines) > 0 {
		end := bytes.IndexByte(lines, '\n')
		colon := bytes.IndexByte(lines, ':')
		if end < 1 || colon < 0 || colon > end {
			return
		}
		fn(lines[:colon], trim(lines[colon+1:end-1]))
		lines = lines[end+1:]
	}
}

// eachToken calls fn for each member of a comma-separated list.
func eachToken(list []byte, fn func([]byte)) {
	for len(list) > 0 {
		i := bytes.IndexByte(list, ',')
		if i < 0 {
			i = len(list)
		}
		if t := trim(list[:i]); len(t) > 0 {
			fn(t)
		}
		list = list[min(i+1, len(list)):]
	}
}
