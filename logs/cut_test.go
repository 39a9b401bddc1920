package logs

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestCut(t *testing.T) {
	long := strings.Repeat("é", MaxLine) // two bytes each, and a piece may end inside one
	for _, tc := range []struct {
		name, in string
		open     bool
		all      bool
		want     string
		used     int
	}{
		{name: "nothing"},
		{name: "whole lines", in: "a\nb\n", want: "a|b", used: 4},
		{name: "unfinished", in: "a\nb", want: "a", used: 2},
		{name: "unfinished and all", in: "a\nb", all: true, want: "a|b", used: 3},
		{name: "end of an open line", in: "\na\n", open: true, want: "a", used: 3},
		{name: "empty lines", in: "\n\na\n", want: "||a", used: 4},
		{name: "long", in: "x" + long + "\nend\n", want: "x" + long[:MaxLine-2] + "|" + long[MaxLine-2:2*MaxLine-2] + "|" + long[2*MaxLine-2:] + "|end",
			used: 2*MaxLine + 6},
		{name: "just as long as may be", in: long[:MaxLine] + "\n", want: long[:MaxLine], used: MaxLine + 1},
	} {
		c := cutter{open: tc.open}
		lines, used := c.cut([]byte(tc.in), tc.all)
		if got := strings.Join(lines, "|"); got != tc.want || used != tc.used {
			t.Errorf("%s: %d bytes %.60q, want %d bytes %.60q", tc.name, used, got, tc.used, tc.want)
		}
	}
}

func FuzzCut(f *testing.F) {
	f.Add([]byte("a\nb\xff\n\n\r\nc"), 3)
	f.Add([]byte(strings.Repeat("long", MaxLine)), 100)
	f.Fuzz(func(t *testing.T, data []byte, step int) {
		var c cutter
		for len(data) > 0 {
			lines, used := c.cut(data, step%2 == 0)
			for _, l := range lines {
				if !utf8.ValidString(l) || strings.Contains(l, "\n") || len(l) > 3*MaxLine {
					t.Fatalf("line %.60q", l)
				}
			}
			if used == 0 && step%2 == 0 || used > len(data) {
				t.Fatalf("used %d of %d", used, len(data))
			}
			if used == 0 {
				return
			}
			data = data[used:]
		}
	})
}

func FuzzPosition(f *testing.F) {
	f.Add("g:1:2")
	f.Fuzz(func(t *testing.T, s string) {
		if p, ok := parsePosition(s); ok && (p.start > p.end || p.start < 0) {
			t.Fatal(p)
		}
	})
}
