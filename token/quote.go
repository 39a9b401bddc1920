package token

import (
	"strconv"
	"unicode/utf8"
)

// quote shows what a caller sent, of bounded length.
func quote(s string) string {
	const most = 80
	if len(s) > most {
		n := most
		for n > 0 && !utf8.RuneStart(s[n]) {
			n--
		}
		s = s[:n] + "…"
	}
	return strconv.Quote(s)
}
