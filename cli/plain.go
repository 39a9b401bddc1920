package cli

import (
	"regexp"
	"strconv"
	"strings"
	"unicode"
)

// What others have said goes to the terminal of whoever looks: a machine chooses the
// names of its files, what its checks answer and what its builds say, a token's maker
// its name. A terminal obeys sequences in them, and bidirectional marks reorder a line.
// All that is printed of them passes here; the bytes of commands, sessions and files
// do not, they are what was asked for.

// colour is the one kind of sequence that does no harm.
var colour = regexp.MustCompile("\x1b\\[[0-9;:]{0,32}m")

// plain is one line as a terminal may have it: colours out, and whatever else is no
// printable character written as in Go, \x1b or \u202e.
func plain(s string) string { return only(s, "") }

// plainText is plain for text of several lines.
func plainText(s string) string { return only(s, "\n\t") }

// only lets printable characters and some others through.
func only(s, others string) string {
	bad := func(r rune) bool { return !unicode.IsPrint(r) && !strings.ContainsRune(others, r) }
	if !strings.ContainsFunc(s, bad) {
		return s
	}
	var b strings.Builder
	for _, r := range colour.ReplaceAllString(s, "") {
		if !bad(r) {
			b.WriteRune(r)
			continue
		}
		q := strconv.QuoteRuneToASCII(r)
		b.WriteString(q[1 : len(q)-1])
	}
	return b.String()
}

// coloured is plain for a line of a log, whose colours stay and end with it.
func coloured(s string) string {
	at := colour.FindAllStringIndex(s, -1)
	if len(at) == 0 {
		return only(s, "\t")
	}
	var b strings.Builder
	last := 0
	for _, m := range at {
		b.WriteString(only(s[last:m[0]], "\t") + s[m[0]:m[1]])
		last = m[1]
	}
	b.WriteString(only(s[last:], "\t") + "\x1b[0m")
	return b.String()
}

// shown is a name by itself: as it is for a script, plain for a person.
func (e *env) shown(name string) string {
	if tty(e.Out) {
		return plain(name)
	}
	return name
}
