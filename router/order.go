package router

import (
	"bytes"
	"strconv"
)

// order is what one router tells another about a request, in the header Perigee-Route:
//
//	<machine> <internal port> <public port> <flags>
//
// The answer's Perigee-Host says in turn what became of it: "<code> <in flight to the machine>". Neither ever reaches an
// app or a visitor, nor is either believed of them.
type order struct {
	machine []byte
	port    int // internal
	public  int // as the visitor came
	flags   orderFlags
}

type orderFlags byte

const (
	insist   orderFlags = 1 << iota // nobody else is left: queue, wait until the port answers, take an unhealthy one
	toH2                            // the machine speaks HTTP/2 without TLS
	asStream                        // bytes, not HTTP
	justWake                        // wake the machine for requests to come
	announce                        // say when the request has its place, before the answer
)

var flagLetters = [...]byte{'i', 'h', 's', 'w', 'a'}

// append writes the header line.
func (o *order) append(out []byte) []byte {
	out = append(append(out, "Perigee-Route: "...), o.machine...)
	out = strconv.AppendInt(append(out, ' '), int64(o.port), 10)
	out = strconv.AppendInt(append(out, ' '), int64(o.public), 10)
	out = append(out, ' ', '-')
	for i, c := range flagLetters {
		if o.flags&(1<<i) != 0 {
			out = append(out, c)
		}
	}
	return append(out, "\r\n"...)
}

// parseOrder reads the header's value; ok says that it is one. Unknown flags are of a newer version, and ignored.
func parseOrder(v []byte) (o order, ok bool) {
	f := bytes.Fields(v)
	if len(f) != 4 || len(f[3]) == 0 || f[3][0] != '-' {
		return o, false
	}
	port, err := strconv.Atoi(string(f[1]))
	public, err2 := strconv.Atoi(string(f[2]))
	if err != nil || err2 != nil || !goodPort(port) || public < 0 || public > 65535 {
		return o, false
	}
	o = order{machine: f[0], port: port, public: public}
	for _, c := range f[3][1:] {
		if i := bytes.IndexByte(flagLetters[:], c); i >= 0 {
			o.flags |= 1 << i
		}
	}
	return o, true
}

// Codes of Perigee-Host.
const (
	codeOK        = "ok"
	codeFull      = "full"      // at its hard limit
	codeGone      = "gone"      // not here, or in no state to take requests
	codeAsleep    = "asleep"    // and may not be woken
	codeUnhealthy = "unhealthy" // its checks fail
	codeDraining  = "draining"  // it is cordoned
	codeSilent    = "silent"    // its port does not answer
	codeFailed    = "failed"    // its wake failed
	codeBroken    = "broken"    // it got the request, and there is no answer
)

func appendReport(out []byte, code string, inflight int) []byte {
	out = append(append(out, "Perigee-Host: "...), code...)
	out = strconv.AppendInt(append(out, ' '), int64(inflight), 10)
	return append(out, "\r\n"...)
}

// parseReport reads the header's value; ok says that it is one.
func parseReport(v []byte) (code string, inflight int, ok bool) {
	name, number, found := bytes.Cut(v, []byte(" "))
	n, err := strconv.Atoi(string(number))
	if !found || err != nil || n < 0 || len(name) == 0 {
		return "", 0, false
	}
	return string(name), n, true
}
