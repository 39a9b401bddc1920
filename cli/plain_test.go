package cli

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/perigee-run/perigee/api"
)

func TestPlain(t *testing.T) {
	for in, want := range map[string]string{
		"shop": "shop", "größe 三": "größe 三", "a\x1b[31mred\x1b[0m": "ared", "\x1b]0;title\a": `\x1b]0;title\a`, "a\r\x1b[K✓ done": `a\r\x1b[K✓ done`,
		"abc\u202egpj": `abc\u202egpj`, "\u009b2J": `\u009b2J`, "a\tb\nc": `a\tb\nc`, "zero\u200bwidth": `zero\u200bwidth`, "\x1b[8m hidden": " hidden", "\x1b\x1b[0m[2J": `\x1b[2J`,
	} {
		if got := plain(in); got != want {
			t.Errorf("%q is shown as %q, want %q", in, got, want)
		}
	}
	if got := plainText("a\n\tb\r\x1b[2J"); got != "a\n\tb\\r\\x1b[2J" {
		t.Errorf("text is %q", got)
	}
	if got := coloured("\x1b[31mred\x1b[2J\tgreen"); got != "\x1b[31mred\\x1b[2J\tgreen\x1b[0m" {
		t.Errorf("a log line is %q", got)
	}
}

// TestNothingReachesTheTerminal: names of others' choice in all ways of showing.
func TestNothingReachesTheTerminal(t *testing.T) {
	var out bytes.Buffer
	e := &env{IO: IO{Out: &out, Err: &out}}
	const evil = "x\x1b]52;c;YQ==\a\u202e"
	_ = e.table([]string{"NAME"}, [][]string{{evil}})
	_ = e.facts("name", evil)
	_ = e.did("did %s", evil)
	v := e.newProgress()
	v.note("%s", evil)
	for _, kind := range []string{"layer", "build", "log", "warning", "other"} {
		v.show(api.Progress{Kind: kind, ID: evil, Message: evil})
	}
	e.report(hint(errors.New(evil), evil))
	e.showMachine(api.Machine{Name: evil, Config: &api.MachineConfig{}, Checks: []api.CheckStatus{{Name: evil, Output: evil}}})
	_ = e.certificate(api.Certificate{Hostname: evil, Certificates: []api.CertificateDetail{{Issuer: evil, ExpiresAt: new(time.Time)}}, ValidationErrors: []api.ValidationError{{Message: evil, Remediation: evil}}})
	if at := strings.IndexFunc(out.String(), func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }); at >= 0 {
		t.Errorf("printed %q", out.String())
	}
	if n := strings.Count(out.String(), `\x1b]52`); n < 12 {
		t.Errorf("only %d of the names were shown:\n%s", n, out.String())
	}
}

func FuzzPlain(f *testing.F) {
	for _, s := range []string{"a", "\x1b[31mx\x1b[0m", "\x1b\x1b[0m[2J", "\xff\u202e\r", "\x1b[1\x1b[0mm"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got := plain(s); strings.ContainsFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%q is shown as %q", s, got)
		}
		if got := colour.ReplaceAllString(coloured(s), ""); strings.Contains(got, "\x1b") {
			t.Errorf("%q in a log is %q", s, got)
		}
	})
}
