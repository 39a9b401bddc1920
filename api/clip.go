package api

import (
	"strings"
)

// clipAt is the most bytes of what a caller sent that an answer or a log repeats.
const clipAt = 80

// Clip bounds what somebody sent, so that a long name does not fill an answer or a
// log. What is cut ends in "…".
func Clip(s string) string {
	if len(s) <= clipAt {
		return s
	}
	return strings.ToValidUTF8(s[:clipAt-len("…")], "") + "…"
}
