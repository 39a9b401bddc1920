package node

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/perigee-run/perigee/httpapi"
	"github.com/perigee-run/perigee/image/registry"
	"github.com/perigee-run/perigee/token"
)

// openTokens opens the tokens that reach less than the cloud's own, and the key by
// which machines say who they are. Both keys come from that of the secrets, which
// all nodes have.
func (n *Node) openTokens() error {
	key, err := n.apps.Derive("tokens")
	if err != nil {
		return err
	}
	n.tokens, err = token.New(token.Config{Catalog: n.catalog, Key: key, OrgOf: n.orgOfApp, Logger: n.log})
	if err != nil {
		return err
	}
	if key, err = n.apps.Derive("oidc"); err != nil {
		return err
	}
	n.issuer, err = token.NewIssuer(n.cfg.oidcIssuer(), key)
	return err
}

// orgOfApp is the owner of an app, "" where there is no such app.
func (n *Node) orgOfApp(name string) string {
	a, err := n.apps.Get(name)
	if err != nil {
		return ""
	}
	return a.Org
}

// oidcIssuer is the address that words about machines are signed with.
func (c *Config) oidcIssuer() string {
	if c.OIDCIssuer != "" {
		return strings.TrimSuffix(c.OIDCIssuer, "/")
	}
	return "https://" + c.Domain
}

// mayRegistry asks the caller's scope about a call of the registry: its paths are
// /v2/<app>/…
func (n *Node) mayRegistry(who httpapi.Authenticator, r *http.Request) error {
	p, err := who.Authenticate(r)
	if err != nil {
		return err
	}
	w := registryWant(r)
	if w.App != "" {
		n.heirs.settle(r.Context(), w.App)
		w.Org = n.orgOfApp(w.App)
	}
	if p.Scope == nil {
		err = token.Forbidden(w, "it has no scope")
	} else {
		err = p.Scope.May(w)
	}
	if err != nil {
		return fmt.Errorf("%w: %v", registry.ErrDenied, err)
	}
	return nil
}

func registryWant(r *http.Request) token.Want {
	name := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/v2"), "/")
	switch {
	case name == "":
		return token.Want{Class: token.Known}
	case name == "_catalog":
		return token.Want{Class: token.Operates}
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		return token.Want{Class: token.Reads, App: httpapi.RepositoryApp(name)}
	}
	return token.Want{Class: token.Changes, App: httpapi.RepositoryApp(name)}
}
