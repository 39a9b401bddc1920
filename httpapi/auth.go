package httpapi

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"strings"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/token"
	"github.com/perigee-run/perigee/token/caveat"
)

// Principal is who makes a call.
type Principal struct {
	// Name is shown to others, as the owner of a lease for example.
	Name string
	// Node is the node that passes the call on, for the one of that name; ""
	// where the call comes from outside.
	Node string
	// Scope is what the caller may do; without one it may nothing.
	Scope token.Scope
	// Token and Kind are the token's id and kind, where the caller has one that is
	// not the cloud's own.
	Token, Kind string
	// App and Machine are the machine that calls, where one does.
	App, Machine string
}

// Authenticator finds out who makes a call. Its error is the answer.
type Authenticator interface {
	Authenticate(r *http.Request) (Principal, error)
}

// Token lets in who presents the token: as "Bearer", as "FlyV1" (Fly's clients),
// or as the password of basic authentication (docker login). An empty token lets
// nobody in.
type Token string

// Authenticate compares in constant time.
func (t Token) Authenticate(r *http.Request) (Principal, error) {
	given := presented(r)
	switch {
	case given == "":
		return Principal{}, api.Errorf(api.CodeUnauthorized, "the call has no token").WithHint("send Authorization: Bearer <token>")
	case t == "" || !equal(given, string(t)):
		return Principal{}, api.Errorf(api.CodeUnauthorized, "the token is not this cloud's")
	}
	return Principal{Name: "token", Scope: token.Full{}}, nil
}

// Tokens lets in who has the cloud's own token, or one of the store's.
type Tokens struct {
	Root  Token
	Store *token.Store
}

// Authenticate goes by what the token looks like.
func (t Tokens) Authenticate(r *http.Request) (Principal, error) {
	given := presented(r)
	if t.Store == nil || !caveat.Is(given) {
		return t.Root.Authenticate(r)
	}
	h, err := t.Store.Authenticate(given)
	if err != nil {
		return Principal{}, err
	}
	return Principal{Name: h.Who(), Scope: h.Limits, Token: h.ID, Kind: h.Kind}, nil
}

// equal tells nothing by its time, not even the length.
func equal(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

func presented(r *http.Request) string {
	if _, password, ok := r.BasicAuth(); ok {
		return password
	}
	scheme, text, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") && !strings.EqualFold(scheme, "FlyV1") {
		return ""
	}
	for one := range strings.SplitSeq(text, ",") { // Fly's clients may send several
		if one = strings.TrimSpace(one); caveat.Is(one) {
			return one
		}
	}
	return strings.TrimSpace(text)
}

// Trust lets everyone in under its name: for a unix socket that only root can
// open.
type Trust string

// Authenticate never refuses.
func (t Trust) Authenticate(*http.Request) (Principal, error) {
	return Principal{Name: string(t), Scope: token.Full{}}, nil
}

// PeerPrincipal lets in nodes, whose names it finds in the context of a request
// that came over mutual TLS. They act for whom they say, see [api.CallerHeader], and
// what they pass on was allowed at the node that was asked first.
type PeerPrincipal func(ctx context.Context) (node string, ok bool)

// Authenticate refuses who is no node.
func (p PeerPrincipal) Authenticate(r *http.Request) (Principal, error) {
	node, ok := p(r.Context())
	if !ok || node == "" {
		return Principal{}, api.Errorf(api.CodeUnauthorized, "the call does not come from a node")
	}
	if caller := r.Header.Get(api.CallerHeader); caller != "" {
		return Principal{Name: caller, Node: node, Scope: token.Full{}}, nil
	}
	return Principal{Name: "node:" + node, Node: node, Scope: token.Full{}}, nil
}
