package http1

import "bytes"

// Request is what the router must know of a request's head. Its slices point into the buffer that was parsed.
type Request struct {
	// Len is the length of the head in the buffer, with its blank line.
	Len int
	// Minor is the HTTP version's: 0 or 1.
	Minor byte
	// Method and Target are as sent, but that Target is in origin form ("/path?query") or "*".
	Method, Target []byte
	// Host is the host that the request is for, with its port if it has one, in the client's spelling.
	Host []byte
	// ContentLength is -1 if there is none.
	ContentLength int64
	// Chunked says that the body is chunked.
	Chunked bool
	// Close says that the client wants the connection closed after the answer.
	Close bool
	// Upgrade is the protocol that the client wants to change to, nil for none.
	Upgrade []byte
	// Continue says that the client waits for "100 Continue" before it sends the body.
	Continue bool
	// Trailers says that the client takes trailers (TE: trailers).
	Trailers bool
	// RequestID, ForwardedFor, Force, Prefer and Accept are the values of X-Request-Id, X-Forwarded-For,
	// Fly-Force-Instance-Id, Fly-Prefer-Instance-Id (or the same with Perigee- for Fly-) and Accept; nil for none.
	RequestID, ForwardedFor, Force, Prefer, Accept []byte
	// PreferRegion and Cookie are the values of Fly-Prefer-Region and of the first Cookie line.
	PreferRegion, Cookie []byte
	// Route is the value of Perigee-Route, by which one router of ours tells another where a request goes. It means
	// nothing unless [AppendRelayed] read it.
	Route []byte

	relayed bool
	conn    connection
	upgrade []byte
	te      int
}

// HasBody says that bytes follow the head.
func (q *Request) HasBody() bool { return q.Chunked || q.ContentLength > 0 }

// Idempotent says that the request may be sent twice (RFC 9110, 9.2.2).
func (q *Request) Idempotent() bool {
	switch string(q.Method) {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE":
		return true
	}
	return false
}

// AppendRequest parses the head of a request at the start of buf into q and appends to dst the head to send on, as
// HTTP/1.1 and without its blank line. Left out is what ends at this hop (Connection and what it names, Keep-Alive,
// TE, Upgrade, Transfer-Encoding, Proxy-*) and what the router alone may say about the client (X-Forwarded-*,
// Forwarded, X-Real-Ip, Fly-Client-Ip and their like): the caller appends its own. limit is the longest head allowed.
//
// Errors are ErrMore, ErrTooLarge, ErrVersion, ErrCoding and BadError.
func AppendRequest(dst, buf []byte, limit int, q *Request) ([]byte, error) {
	return appendRequest(dst, buf, limit, q, false)
}

// AppendRelayed is AppendRequest for a request that another router of ours sends on: what that one says about the client
// stays, and Route, which is left out, says where the request goes.
func AppendRelayed(dst, buf []byte, limit int, q *Request) ([]byte, error) {
	return appendRequest(dst, buf, limit, q, true)
}

func appendRequest(dst, buf []byte, limit int, q *Request, relayed bool) ([]byte, error) {
	*q = Request{ContentLength: -1, relayed: relayed}
	start := 0
	if len(buf) >= 2 && buf[0] == '\r' && buf[1] == '\n' {
		start = 2 // RFC 9112, 2.2: one stray empty line between requests is forgiven
	}
	i := bytes.IndexByte(buf[start:], '\n')
	if i < 0 {
		return dst, more(len(buf), limit)
	}
	line := buf[start : start+i+1]
	if err := q.startLine(line); err != nil {
		return dst, err
	}
	base := len(dst)
	dst = append(dst, q.Method...)
	dst = append(dst, ' ')
	dst = append(dst, q.Target...)
	dst = append(dst, " HTTP/1.1\r\n"...)
	absolute := q.Host != nil
	if absolute {
		dst = append(append(append(dst, "Host: "...), q.Host...), "\r\n"...)
	}
	seen := 0
	dst, end, err := lines(dst, buf, start+i+1, limit, func(name, value []byte) (bool, error) {
		return q.field(name, value, absolute, &seen)
	})
	if err != nil {
		return dst[:base], err
	}
	q.Len = end
	if err := q.finish(seen); err != nil {
		return dst[:base], err
	}
	if q.conn.named {
		dst = append(dst[:base], dropNamed(dst[base:], buf[start:end])...)
	}
	return dst, nil
}

func (q *Request) startLine(line []byte) error {
	if len(line) < 2 || line[len(line)-2] != '\r' {
		return errBareLF
	}
	line = line[:len(line)-2]
	sp := tokenLen(line)
	last := bytes.LastIndexByte(line, ' ')
	if sp == 0 || last <= sp+1 || line[sp] != ' ' || !clean(line) {
		return errStartLine
	}
	version := line[last+1:]
	if len(version) != 8 || string(version[:5]) != "HTTP/" {
		return errStartLine
	}
	if string(version[:7]) != "HTTP/1." || version[7] != '0' && version[7] != '1' {
		return ErrVersion
	}
	q.Minor = version[7] - '0'
	q.Method, q.Target = line[:sp], line[sp+1:last]
	if bytes.IndexByte(q.Target, ' ') >= 0 || bytes.IndexByte(q.Target, '\t') >= 0 {
		return errStartLine
	}
	return q.target()
}

// target brings the request target into origin form.
func (q *Request) target() error {
	t := q.Target
	if t[0] == '/' || len(t) == 1 && t[0] == '*' {
		return nil
	}
	scheme := 0
	switch {
	case len(t) > 7 && fold(t[:7], "http://"):
		scheme = 7
	case len(t) > 8 && fold(t[:8], "https://"):
		scheme = 8
	default:
		return errStartLine
	}
	t = t[scheme:]
	i := bytes.IndexAny(t, "/?")
	switch {
	case i < 0:
		q.Host, q.Target = t, []byte("/")
	case t[i] == '?':
		q.Host, q.Target = t[:i], append([]byte("/"), t[i:]...)
	default:
		q.Host, q.Target = t[:i], t[i:]
	}
	if !goodHost(q.Host) {
		return errHost
	}
	return nil
}

// field notes what the router must know of one line and says whether the line travels on. hosts counts Host lines.
func (q *Request) field(name, value []byte, absolute bool, hosts *int) (bool, error) {
	switch len(name) {
	case 2:
		if fold(name, "te") {
			eachToken(value, func(t []byte) { q.Trailers = q.Trailers || fold(t, "trailers") })
			return false, nil
		}
	case 4:
		if fold(name, "host") {
			*hosts++
			v := trim(value)
			if !goodHost(v) {
				return false, errHost
			}
			if !absolute {
				q.Host = v
			}
			return !absolute, nil
		}
	case 6:
		if fold(name, "accept") {
			q.Accept = trim(value)
		} else if fold(name, "cookie") {
			if q.Cookie == nil {
				q.Cookie = trim(value)
			}
		} else if fold(name, "expect") {
			q.Continue = fold(trim(value), "100-continue")
		}
	case 7:
		if fold(name, "upgrade") {
			q.upgrade = trim(value)
			return false, nil
		}
	case 10:
		if fold(name, "connection") {
			return false, q.conn.line(value)
		}
	case 12:
		if fold(name, "x-request-id") {
			q.RequestID = trim(value)
		}
	case 13:
		if fold(name, "perigee-route") {
			q.Route = trim(value)
		}
	case 14:
		if foldLoose(name, "content-length") {
			return q.length(name, value)
		}
	case 15:
		if fold(name, "x-forwarded-for") {
			q.ForwardedFor = trim(value)
		}
	case 17:
		if foldLoose(name, "transfer-encoding") {
			return false, q.coding(name, value)
		}
		if fold(name, "fly-prefer-region") {
			q.PreferRegion = trim(value)
		}
	case 21:
		if fold(name, "fly-force-instance-id") {
			q.Force = trim(value)
		} else if fold(name, "perigee-prefer-region") {
			q.PreferRegion = trim(value)
		}
	case 22:
		if fold(name, "fly-prefer-instance-id") {
			q.Prefer = trim(value)
		}
	case 25:
		if fold(name, "perigee-force-instance-id") {
			q.Force = trim(value)
		}
	case 26:
		if fold(name, "perigee-prefer-instance-id") {
			q.Prefer = trim(value)
		}
	}
	if q.relayed {
		return !hopOnly(name), nil
	}
	return !Private(name), nil
}

// hopOnly says that a request header of one router of ours to another does not go further.
func hopOnly(name []byte) bool {
	switch len(name) {
	case 10:
		return fold(name, "keep-alive")
	case 13:
		return foldLoose(name, "perigee-route")
	case 16:
		return fold(name, "proxy-connection")
	case 19:
		return fold(name, "proxy-authorization")
	}
	return false
}

// Private says that a request header ends at this hop, or is one that only the router may set.
func Private(name []byte) bool {
	switch len(name) {
	case 9:
		return foldLoose(name, "forwarded") || foldLoose(name, "x-real-ip")
	case 10:
		return fold(name, "keep-alive") || foldLoose(name, "fly-region")
	case 12:
		return foldLoose(name, "x-request-id")
	case 13:
		return foldLoose(name, "fly-client-ip") || foldLoose(name, "perigee-route")
	case 14:
		return foldLoose(name, "fly-request-id") || foldLoose(name, "fly-replay-src")
	case 15:
		return foldLoose(name, "x-forwarded-for") || foldLoose(name, "x-forwarded-ssl")
	case 16:
		return fold(name, "proxy-connection") || foldLoose(name, "x-forwarded-port") || foldLoose(name, "x-forwarded-host")
	case 17:
		return foldLoose(name, "x-forwarded-proto") || foldLoose(name, "fly-forwarded-ssl") || foldLoose(name, "fly-replay-failed")
	case 18:
		return foldLoose(name, "fly-forwarded-port")
	case 19:
		return fold(name, "proxy-authorization") || foldLoose(name, "fly-forwarded-proto")
	}
	return false
}

func (q *Request) length(name, value []byte) (bool, error) {
	if !fold(name, "content-length") {
		return false, nil
	}
	n, ok := ParseLength(trim(value))
	if !ok || q.ContentLength >= 0 {
		return false, errLength
	}
	q.ContentLength = n
	return true, nil
}

func (q *Request) coding(name, value []byte) error {
	if !fold(name, "transfer-encoding") {
		return nil
	}
	q.te++
	if !fold(trim(value), "chunked") || q.te > 1 {
		return ErrCoding
	}
	q.Chunked = true
	return nil
}

func (q *Request) finish(hosts int) error {
	switch {
	case hosts > 1, hosts == 0 && q.Minor == 1:
		return errHost
	case q.Chunked && (q.ContentLength >= 0 || q.Minor == 0):
		return errTwoLengths
	}
	q.Close = q.conn.close || q.Minor == 0 && !q.conn.keepAlive
	// Upgrade counts only if Connection says so; h2c by Upgrade is obsolete (RFC 9113, 3.1) and a way around proxies.
	if q.conn.upgrade && len(q.upgrade) > 0 && !q.HasBody() && !fold(q.upgrade, "h2c") && q.Minor == 1 {
		q.Upgrade = q.upgrade
	}
	return nil
}

// goodHost says that b could be "host", "host:port", "1.2.3.4:80" or "[v6]:80".
func goodHost(b []byte) bool {
	if len(b) == 0 || len(b) > 300 {
		return false
	}
	for _, c := range b {
		ok := c|0x20 >= 'a' && c|0x20 <= 'z' && c < 128 || c >= '0' && c <= '9' || c == '.' || c == '-' || c == '_' ||
			c == ':' || c == '[' || c == ']'
		if !ok {
			return false
		}
	}
	return true
}
