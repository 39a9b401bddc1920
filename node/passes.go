package node

import (
	"crypto/rand"
	"net/http"
	"sync"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/httpapi"
	"github.com/perigee-run/perigee/token"
)

// passes let what the node does for callers, such as a build, into the built-in
// registry as far as these may read, and no further. They are good for reading there
// alone, on this node, and only as long as the work lasts.
type passes struct {
	mu  sync.Mutex // guards all
	all map[string]token.Scope
}

// give returns a pass for the scope, and what ends it.
func (p *passes) give(scope token.Scope) (pass string, end func()) {
	pass = "pass_" + rand.Text()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all == nil {
		p.all = map[string]token.Scope{}
	}
	p.all[pass] = readsOnly{scope}
	return pass, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.all, pass)
	}
}

// Authenticate implements httpapi.Authenticator.
func (p *passes) Authenticate(r *http.Request) (httpapi.Principal, error) {
	_, pass, _ := r.BasicAuth()
	p.mu.Lock()
	defer p.mu.Unlock()
	if scope, ok := p.all[pass]; ok {
		return httpapi.Principal{Name: "build", Scope: scope}, nil
	}
	return httpapi.Principal{}, api.Errorf(api.CodeUnauthorized, "that is no pass, or it has ended")
}

// passOr lets in who has a pass, and whom other lets in.
func (p *passes) passOr(other httpapi.Authenticator) httpapi.Authenticator {
	return either{p, other}
}

type either [2]httpapi.Authenticator

// Authenticate asks the second where the first refuses.
func (e either) Authenticate(r *http.Request) (httpapi.Principal, error) {
	if who, err := e[0].Authenticate(r); err == nil {
		return who, nil
	}
	return e[1].Authenticate(r)
}

// readsOnly is a scope without all but reading.
type readsOnly struct{ token.Scope }

// May implements [token.Scope].
func (s readsOnly) May(w token.Want) error {
	if s.Scope == nil || w.Class != token.Reads && w.Class != token.Known {
		return token.Forbidden(w, "it is for reading alone")
	}
	return s.Scope.May(w)
}
