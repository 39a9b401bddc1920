package router

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
)

// stickyCookie is the visitor's cookie for sticky services.
const stickyCookie = "perigee-machine"

// stickyKey is the key of the cookies.
func stickyKey(given []byte) []byte {
	if len(given) > 0 {
		return given
	}
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	return key
}

// giveTokens makes the cookies of a sticky service. A cookie is a signature of app and machine: it names nobody, leads to
// machines of this service only, and is the same on all nodes that have the key.
func (r *Router) giveTokens(tg *target) {
	tg.tokens = make(map[string]int, len(tg.spots))
	for i := range tg.spots {
		mac := hmac.New(sha256.New, r.cfg.StickyKey)
		mac.Write([]byte(tg.app.name + "\x00" + tg.spots[i].id))
		tg.spots[i].token = base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:16])
		tg.tokens[tg.spots[i].token] = i
	}
}

// stickTo is the machine that the request's cookie leads to, nil for none.
func (tg *target) stickTo(cookie []byte) []byte {
	for len(cookie) > 0 {
		var one []byte
		one, cookie, _ = bytes.Cut(cookie, []byte(";"))
		name, value, _ := bytes.Cut(bytes.TrimSpace(one), []byte("="))
		if string(name) != stickyCookie {
			continue
		}
		if i, ok := tg.tokens[string(value)]; ok {
			return []byte(tg.spots[i].id)
		}
	}
	return nil
}

// follow makes the request prefer the machine that its cookie leads to, unless it says itself what it prefers.
func (a *ask) follow(tg *target) {
	if a.stick == nil {
		a.stick = tg.stickTo(a.cookie)
	}
	if len(a.prefer) == 0 {
		a.prefer = a.stick
	}
}

// newCookie is the value of Set-Cookie for an answer by the slot's machine, empty if the visitor has it already.
func (s *slot) newCookie(a *ask) string {
	if s.target.tokens == nil || s.seat == nil || string(a.stick) == s.seat.door.id {
		return ""
	}
	for i := range s.target.spots {
		if sp := &s.target.spots[i]; sp.seat == s.seat {
			cookie := stickyCookie + "=" + sp.token + "; Path=/; HttpOnly; SameSite=Lax"
			if a.secure {
				cookie += "; Secure"
			}
			return cookie
		}
	}
	return ""
}
