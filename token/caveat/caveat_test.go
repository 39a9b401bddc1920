package caveat

import (
	"encoding/base64"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"gopkg.in/macaroon.v2"
)

var key = []byte("0123456789abcdef0123456789abcdef")

func TestGrammar(t *testing.T) {
	for _, line := range []string{"org acme", "apps shop,api", "machines 3d8d9014b32789", "actions reads,changes",
		`commands [["date"],["psql","-c","..."]]`, "not-before 2026-01-31T10:00:00Z", "expires 2026-01-31T10:00:00Z"} {
		if c, err := Parse(line); err != nil || c.String() != line {
			t.Errorf("%s: %q, %v", line, c, err)
		}
	}
	for line, want := range map[string]string{
		"": "name and a value", "org": "name and a value", "org a,b": "2 values", "org A": "small letters", "apps shop,": "small letters", "app shop": "there are org, apps",
		"commands []": "0 commands", `commands [[]]`: "no program", `commands [["..."]]`: "no program", `commands [ ["a"]]`: `would be written`,
		"expires tomorrow": "cannot parse", "expires 2026-01-31T10:00:00+02:00": "would be written", "org  acme": "small letters",
		"apps " + strings.Repeat("a,", 200) + "a": "201 values", "apps " + strings.Repeat("a", 5000): "at most",
	} {
		if _, err := Parse(line); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: %v, want %q", line, err, want)
		}
	}
}

func TestCommands(t *testing.T) {
	c, err := Parse(`commands [["date"],["psql","-c","..."]]`)
	if err != nil {
		t.Fatal(err)
	}
	for command, want := range map[string]bool{"date": true, "date -u": false, "psql": false, "psql -c": true, "psql -c x y": true, "psql -d": false, "sh": false, "": false} {
		if got := c.Allows(strings.Fields(command)); got != want {
			t.Errorf("%q: %v", command, got)
		}
	}
}

func TestTokenNarrowsOffline(t *testing.T) {
	wide, err := New(key, "t1", Caveat{Name: Org, Words: []string{"acme"}})
	if err != nil {
		t.Fatal(err)
	}
	mine, err := Read(wide.String())
	if err != nil || mine.ID() != "t1" || mine.Verify(key) != nil {
		t.Fatalf("%+v, %v", mine, err)
	}
	narrow, err := mine.With(Caveat{Name: Apps, Words: []string{"shop"}}, Caveat{Name: Expires, Time: time.Unix(1e9, 0)})
	if err != nil || narrow.Verify(key) != nil || len(mine.Lines()) != 1 {
		t.Fatal(err)
	}
	if got, err := narrow.Limits(); err != nil || len(got) != 3 || got[1].String() != "apps shop" || got[2].String() != "expires 2001-09-09T01:46:40Z" {
		t.Errorf("%v, %v", got, err)
	}
	if narrow.Verify([]byte(strings.Repeat("x", 32))) == nil {
		t.Error("another key proves it")
	}
	if _, err := mine.With(Caveat{Name: Apps, Words: []string{"No Name"}}); err == nil {
		t.Error("took a wrong limit")
	}
}

// TestForgery: taking the last limit away, or the first, or changing one.
func TestForgery(t *testing.T) {
	whole, err := New(key, "t1", Caveat{Name: Org, Words: []string{"acme"}}, Caveat{Name: Apps, Words: []string{"shop"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, keep := range [][]string{{}, {"org acme"}, {"apps shop"}, {"org acme", "apps shup"}, {"apps shop", "org acme"}} {
		m, err := macaroon.New([]byte("guess"), []byte("t1"), "", macaroon.V2)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range keep {
			if err := m.AddFirstPartyCaveat([]byte(l)); err != nil {
				t.Fatal(err)
			}
		}
		b, err := m.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		copy(b[len(b)-32:], whole.m.Signature())
		forged, err := Read(Prefix + base64.RawURLEncoding.EncodeToString(b))
		if err != nil {
			t.Fatal(err)
		}
		if forged.Verify(key) == nil {
			t.Errorf("%v is proved", keep)
		}
	}
}

func TestThirdPartyIsRefused(t *testing.T) {
	m, err := macaroon.New(key, []byte("t1"), "", macaroon.V2)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.AddThirdPartyCaveat([]byte("k"), []byte("who"), "https://elsewhere.example"); err != nil {
		t.Fatal(err)
	}
	b, _ := m.MarshalBinary()
	if _, err := Read(Prefix + base64.RawURLEncoding.EncodeToString(b)); !errors.Is(err, ErrThirdParty) {
		t.Error(err)
	}
}

func TestBrokenTexts(t *testing.T) {
	whole, _ := New(key, "t1", Caveat{Name: Org, Words: []string{"acme"}})
	for _, text := range []string{"", "perigee_", "fm2_x", "pgt_123", whole.String() + "A", whole.String()[:len(whole.String())-1], strings.ToUpper(whole.String()), Prefix + strings.Repeat("A", 20000)} {
		if _, err := Read(text); err == nil {
			t.Errorf("%.40q is read", text)
		}
	}
}

func FuzzCaveat(f *testing.F) {
	for _, line := range []string{"org acme", "apps a,b", `commands [["a","..."]]`, "expires 2026-01-31T10:00:00Z", "commands [[\"\\ud800\"]]", "x y"} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		c, err := Parse(line)
		if err != nil {
			return
		}
		if again, err := Parse(c.String()); err != nil || !reflect.DeepEqual(again, c) {
			t.Errorf("%q: %+v, %v", line, again, err)
		}
		c.Allows([]string{"a"})
	})
}

func FuzzToken(f *testing.F) {
	whole, _ := New(key, "t1", Caveat{Name: Org, Words: []string{"acme"}})
	f.Add(whole.String())
	f.Add(Prefix)
	f.Add(Prefix + "AgEA")
	f.Fuzz(func(t *testing.T, text string) {
		tok, err := Read(text)
		if err != nil {
			return
		}
		if tok.String() != text {
			t.Errorf("%q is written %q", text, tok)
		}
		if tok.Verify(key) == nil && text != whole.String() && !strings.HasPrefix(tok.ID(), "t1") {
			t.Errorf("%q is proved", text)
		}
		_, _ = tok.Limits()
	})
}
