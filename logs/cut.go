package logs

import (
	"bytes"
	"strings"
	"unicode/utf8"
)

// cutter makes lines of a console's bytes.
type cutter struct {
	open bool // the last line handed out had no end yet
}

// cut returns the lines in data and how many bytes they take. A last line without
// an end stays behind, unless all is set or it is over MaxLine.
func (c *cutter) cut(data []byte, all bool) (lines []string, used int) {
	for used < len(data) {
		rest := data[used:]
		end := bytes.IndexByte(rest, '\n')
		switch {
		case end == 0 && c.open: // the end of a line that was handed out already
			used, c.open = used+1, false
		case end >= 0 && end <= MaxLine:
			lines, used, c.open = append(lines, tidy(rest[:end])), used+end+1, false
		case len(rest) > MaxLine:
			n := wholeRunes(rest[:MaxLine])
			lines, used, c.open = append(lines, tidy(rest[:n])), used+n, true
		case all:
			lines, used, c.open = append(lines, tidy(rest)), len(data), true
		default:
			return lines, used
		}
	}
	return lines, used
}

// wholeRunes is len(b) less a rune that was cut in two at its end.
func wholeRunes(b []byte) int {
	for back := 1; back < utf8.UTFMax && back < len(b); back++ {
		if tail := b[len(b)-back:]; utf8.RuneStart(tail[0]) {
			if !utf8.FullRune(tail) {
				return len(b) - back
			}
			break
		}
	}
	return len(b)
}

func tidy(line []byte) string {
	return strings.ToValidUTF8(string(bytes.TrimSuffix(line, []byte("\r"))), "\uFFFD")
}
