package caveat

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"gopkg.in/macaroon.v2"
)

// Prefix begins every token, so that people and secret scanners recognise one. It
// is unlike Fly's, whose clients would look inside theirs.
const Prefix = "perigee_"

const (
	maxToken   = 16 << 10 // bytes of the text
	maxCaveats = 64
)

// ErrThirdParty is for tokens that need another server's word.
var ErrThirdParty = errors.New("the token asks for another server's word (a third-party caveat), which this cloud does not take; make a token without")

// Token is a token as its holder has it: an id, limits, and the proof of both.
type Token struct{ m *macaroon.Macaroon }

// New makes a token from its key.
func New(key []byte, id string, limits ...Caveat) (Token, error) {
	m, err := macaroon.New(key, []byte(id), "", macaroon.V2)
	if err != nil {
		return Token{}, fmt.Errorf("cannot make a token: %w", err)
	}
	return Token{m}.With(limits...)
}

// Is reports whether a text looks like a token, whole or not.
func Is(text string) bool { return strings.HasPrefix(text, Prefix) }

// Read reads a token's text. It does not check the proof.
func Read(text string) (Token, error) {
	body, ok := strings.CutPrefix(text, Prefix)
	if !ok || len(text) > maxToken {
		return Token{}, fmt.Errorf("the text is no token of Perigee: one begins with %s and has at most %d bytes", Prefix, maxToken)
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(body)
	t := Token{new(macaroon.Macaroon)}
	if err == nil {
		err = t.m.UnmarshalBinary(b)
	}
	if err == nil && !t.is(b) {
		err = errors.New("it could be written in another way")
	}
	if err != nil {
		return Token{}, fmt.Errorf("cannot read the token: a part of it is missing or changed: %w", err)
	}
	if n := len(t.m.Caveats()); n > maxCaveats {
		return Token{}, fmt.Errorf("cannot read the token: it has %d limits; the most is %d", n, maxCaveats)
	}
	for _, c := range t.m.Caveats() {
		if len(c.VerificationId) > 0 || c.Location != "" {
			return Token{}, ErrThirdParty
		}
	}
	return t, nil
}

// is reports whether b is how the token is written: one token has one text.
func (t Token) is(b []byte) bool {
	if t.m.Version() != macaroon.V2 || t.m.Location() != "" {
		return false
	}
	again, err := t.m.MarshalBinary()
	return err == nil && bytes.Equal(again, b)
}

// String is the text, as Read reads it.
func (t Token) String() string {
	b, err := t.m.MarshalBinary()
	if err != nil {
		return "" // New and Read made it: it can be written
	}
	return Prefix + base64.RawURLEncoding.EncodeToString(b)
}

// ID names the token's record.
func (t Token) ID() string { return string(t.m.Id()) }

// Lines are the limits as they are written.
func (t Token) Lines() []string {
	var out []string
	for _, c := range t.m.Caveats() {
		out = append(out, string(c.Id))
	}
	return out
}

// Limits are the limits in the grammar; one that is not in it is an error.
func (t Token) Limits() ([]Caveat, error) { return ParseAll(t.Lines()) }

// ParseAll reads many lines.
func ParseAll(lines []string) ([]Caveat, error) {
	out := make([]Caveat, len(lines))
	for i, l := range lines {
		var err error
		if out[i], err = Parse(l); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// With is the token with more limits. It needs no key: what was proved stays so,
// and no limit can be taken away again.
func (t Token) With(limits ...Caveat) (Token, error) {
	narrower := Token{t.m.Clone()}
	for _, c := range limits {
		if _, err := Parse(c.String()); err != nil {
			return Token{}, err
		}
		if err := narrower.m.AddFirstPartyCaveat([]byte(c.String())); err != nil {
			return Token{}, fmt.Errorf("cannot narrow the token: %w", err)
		}
	}
	if len(narrower.m.Caveats()) > maxCaveats || len(narrower.String()) > maxToken {
		return Token{}, fmt.Errorf("cannot narrow the token: it would have more than %d limits or %d bytes", maxCaveats, maxToken)
	}
	return narrower, nil
}

// Verify checks the proof by the token's key. Whether the limits are kept, it does
// not look at.
func (t Token) Verify(key []byte) error {
	if err := t.m.Verify(key, func(string) error { return nil }, nil); err != nil {
		return errors.New("the token's proof is wrong: it was changed, or is another cloud's")
	}
	return nil
}
