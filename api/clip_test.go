package api

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestClip(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "shop": "shop", strings.Repeat("x", 80): strings.Repeat("x", 80), strings.Repeat("x", 81): strings.Repeat("x", 77) + "…",
		strings.Repeat("é", 50): strings.Repeat("é", 38) + "…",
	} {
		if got := Clip(in); got != want || len(got) > 80 || !utf8.ValidString(got) {
			t.Errorf("%q: %q", in, got)
		}
	}
}
