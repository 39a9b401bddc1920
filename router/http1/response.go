package http1

import "bytes"

// Response is what the router must know of an answer's head.
type Response struct {
	// Len is the length of the head in the buffer, with its blank line.
	Len int
	// Status is the status code, Minor the HTTP version's second number.
	Status int
	Minor  byte
	// ContentLength is -1 if there is none.
	ContentLength int64
	// Chunked says that the body is chunked.
	Chunked bool
	// Close says that the connection cannot be used again.
	Close bool
	// Upgrade is the protocol of a 101.
	Upgrade []byte
	// KeepAlive is how many seconds the server says it keeps the connection; 0 if it does not say.
	KeepAlive int
	// Host is the value of Perigee-Host, by which a router of ours tells another how a request fared; never passed on.
	Host []byte
	// Replay is the value of fly-replay; nil for none. ReplayBody says that the body is such a request, in JSON.
	Replay     []byte
	ReplayBody bool

	conn    connection
	upgrade []byte
	te      int
}

// Bodyless says that no body follows, whatever the headers say.
func (s *Response) Bodyless(head bool) bool {
	return head || s.Status < 200 || s.Status == 204 || s.Status == 304
}

// AppendResponse parses the head of an answer at the start of buf into s and appends to dst the head to send on, as
// HTTP/1.1 and without its blank line. Left out is what ends at this hop, Transfer-Encoding among it: the caller
// appends what is true for the next one. Errors are as for [AppendRequest].
func AppendResponse(dst, buf []byte, limit int, s *Response) ([]byte, error) {
	*s = Response{ContentLength: -1}
	i := bytes.IndexByte(buf, '\n')
	if i < 0 {
		return dst, more(len(buf), limit)
	}
	if err := s.statusLine(buf[:i+1]); err != nil {
		return dst, err
	}
	base := len(dst)
	dst = append(append(append(dst, "HTTP/1.1"...), buf[8:i-1]...), "\r\n"...)
	dst, end, err := lines(dst, buf, i+1, limit, s.field)
	if err != nil {
		return dst[:base], err
	}
	s.Len = end
	if s.Chunked && s.ContentLength >= 0 {
		return dst[:base], errTwoLengths
	}
	s.Close = s.conn.close || s.Minor == 0 && !s.conn.keepAlive
	if s.conn.upgrade {
		s.Upgrade = s.upgrade
	}
	if s.conn.named {
		dst = append(dst[:base], dropNamed(dst[base:], buf[:end])...)
	}
	return dst, nil
}

func (s *Response) statusLine(line []byte) error {
	if len(line) < 14 || line[len(line)-2] != '\r' || string(line[:7]) != "HTTP/1." || line[8] != ' ' || !clean(line[:len(line)-2]) {
		return errStatusLine
	}
	s.Minor = line[7] - '0'
	if s.Minor > 1 || len(line) > 14 && line[12] != ' ' {
		return errStatusLine
	}
	for _, c := range line[9:12] {
		if c-'0' > 9 {
			return errStatusLine
		}
		s.Status = s.Status*10 + int(c-'0')
	}
	if s.Status < 100 {
		return errStatusLine
	}
	return nil
}

func (s *Response) field(name, value []byte) (bool, error) {
	switch len(name) {
	case 7:
		if fold(name, "upgrade") {
			s.upgrade = trim(value)
			return false, nil
		}
	case 10:
		if fold(name, "connection") {
			return false, s.conn.line(value)
		}
		if fold(name, "keep-alive") {
			s.KeepAlive = keepAlive(value)
		} else if fold(name, "fly-replay") {
			s.Replay = trim(value)
		}
	case 12:
		if fold(name, "perigee-host") {
			s.Host = trim(value)
			return false, nil
		}
		if fold(name, "content-type") {
			s.ReplayBody = replayType(trim(value))
		}
	case 14:
		if fold(name, "content-length") {
			return s.length(value)
		}
	case 17:
		if fold(name, "transfer-encoding") {
			s.te++
			if !fold(trim(value), "chunked") || s.te > 1 {
				return false, ErrCoding
			}
			s.Chunked = true
			return false, nil
		}
	}
	return !responsePrivate(name), nil
}

// ReplayType is the media type of an answer whose body asks to replay the request elsewhere.
const ReplayType = "application/vnd.fly.replay+json"

func replayType(v []byte) bool {
	return len(v) >= len(ReplayType) && fold(v[:len(ReplayType)], ReplayType) && (len(v) == len(ReplayType) || v[len(ReplayType)] == ';')
}

// responsePrivate says that a header of an answer ends at this hop, or is one that only the router may set.
func responsePrivate(name []byte) bool {
	switch len(name) {
	case 10:
		return fold(name, "keep-alive")
	case 14:
		return fold(name, "fly-request-id")
	case 16:
		return fold(name, "proxy-connection")
	}
	return false
}

// length takes a repeated Content-Length as long as it says the same, but passes it on only once.
func (s *Response) length(value []byte) (bool, error) {
	n, ok := ParseLength(trim(value))
	if !ok || s.ContentLength >= 0 && s.ContentLength != n {
		return false, errLength
	}
	first := s.ContentLength < 0
	s.ContentLength = n
	return first, nil
}

func keepAlive(value []byte) (seconds int) {
	eachToken(value, func(t []byte) {
		if len(t) > 8 && fold(t[:8], "timeout=") {
			if n, ok := ParseLength(t[8:]); ok && n < 1<<20 {
				seconds = int(n)
			}
		}
	})
	return seconds
}
