package cli

import (
	"slices"
	"strings"
	"testing"
)

// FuzzSSHHost: a host that ssh gives is a machine's or an app's, or refused. Only what
// is a part of the name comes out.
func FuzzSSHHost(f *testing.F) {
	for _, s := range []string{"shop.internal", "m1.vm.shop.internal", "m1.vm.shop.internal.", "`x`.internal", ".internal", "a.b.internal", ".vm..internal", "x.vm.a.vm.b.internal", "internal", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, host string) {
		app, id, err := sshHost(host)
		if err != nil {
			if app != "" || id != "" || exitCode(err) == 0 {
				t.Errorf("%q: %q, %q, %v", host, app, id, err)
			}
			return
		}
		want := app + ".internal"
		if id != "" {
			want = id + ".vm." + want
		}
		if app == "" || strings.Contains(app, ".") || strings.TrimSuffix(host, ".") != want {
			t.Errorf("%q is machine %q of app %q", host, id, app)
		}
	})
}

// FuzzWordsOf: a line of the SFTP shell is taken apart or refused, and nothing of it is
// lost but spaces and quotes.
func FuzzWordsOf(f *testing.F) {
	for _, s := range []string{"", "get a b", `put "a b" 'c d'`, `ls ""`, `"`, "a\tb", `a"b'c"d`, "\x00"} {
		f.Add(s)
	}
	strip := func(s string) string {
		return strings.Map(func(r rune) rune {
			if strings.ContainsRune(" \t\"'", r) {
				return -1
			}
			return r
		}, s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		words, err := wordsOf(line)
		if err == nil && strip(strings.Join(words, "")) != strip(line) {
			t.Errorf("%q is %q", line, words)
		}
		if err == nil && strings.ContainsAny(line, "\"'") {
			return
		}
		if plain := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' }); err == nil && strings.ToValidUTF8(line, "") == line && !slices.Equal(plain, words) {
			t.Errorf("%q is %q", line, words)
		}
	})
}
