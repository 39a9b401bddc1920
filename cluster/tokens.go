package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/perigee-run/perigee/api"
)

// tokenRecord is what is kept of a token.
type tokenRecord struct {
	Hash    []byte    `json:"hash"` // of the secret
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
	Left    int       `json:"left"` // uses
	Region  string    `json:"region,omitempty"`
	Roles   []string  `json:"roles,omitempty"`
	Revoked bool      `json:"revoked,omitempty"`
	// Keys are the hashes of the keys that used it: a node that repeats its join
	// does not use it again.
	Keys  []string `json:"keys,omitempty"`
	Nodes []string `json:"nodes,omitempty"` // for people
}

const (
	maxTokenTTL  = 365 * 24 * time.Hour
	maxTokenUses = 10_000
	// tokenKept is how long an expired token is remembered: for a join that was
	// begun with it in time, and to tell expired from unknown.
	tokenKept = 24 * time.Hour
)

// CreateToken makes a join token and returns its text, once.
func (c *Cluster) CreateToken(ctx context.Context, req api.CreateJoinTokenRequest) (api.JoinToken, error) {
	t, err := c.state()
	if err != nil {
		return api.JoinToken{}, err
	}
	rec, err := c.newTokenRecord(req)
	if err != nil {
		return api.JoinToken{}, err
	}
	token := newToken(c.authority.cert)
	rec.Hash = token.hash()
	if _, err := t.tokens.Create(ctx, token.ID, rec); err != nil {
		return api.JoinToken{}, err
	}
	out := rec.shown(token.ID, c.cfg.now())
	out.Token, out.Address = token.String(), c.Self().PeerAddr()
	return out, nil
}

func (c *Cluster) newTokenRecord(req api.CreateJoinTokenRequest) (tokenRecord, error) {
	ttl, uses := time.Hour, cmp.Or(req.Uses, 1)
	if req.TTL != nil {
		ttl = time.Duration(*req.TTL)
	}
	switch {
	case ttl <= 0 || ttl > maxTokenTTL:
		return tokenRecord{}, api.Errorf(api.CodeInvalid, "ttl is %s; it must be more than nothing and at most a year", ttl).WithField("ttl")
	case uses < 1 || uses > maxTokenUses:
		return tokenRecord{}, api.Errorf(api.CodeInvalid, "uses is %d; it can be 1 to %d", uses, maxTokenUses).WithField("uses")
	case req.Region != "" && !regionName.MatchString(req.Region):
		return tokenRecord{}, api.Errorf(api.CodeInvalid, "region is %q; it must be 2 to 16 lower-case letters and digits", api.Clip(req.Region)).WithField("region")
	}
	if len(req.Roles) > 0 {
		if err := checkRoles(req.Roles); err != nil {
			return tokenRecord{}, api.Errorf(api.CodeInvalid, "%v", err).WithField("roles")
		}
	}
	now := c.cfg.now().UTC()
	return tokenRecord{Created: now, Expires: now.Add(ttl), Left: uses, Region: req.Region, Roles: slices.Clone(req.Roles)}, nil
}

func (r tokenRecord) shown(id string, now time.Time) api.JoinToken {
	return api.JoinToken{ID: id, State: r.state(now), CreatedAt: r.Created, ExpiresAt: r.Expires, UsesLeft: r.Left, Region: r.Region, Roles: r.Roles, Nodes: r.Nodes}
}

func (r tokenRecord) state(now time.Time) string {
	switch {
	case r.Revoked:
		return "revoked"
	case r.Left < 1:
		return "used"
	case !now.Before(r.Expires):
		return "expired"
	}
	return "valid"
}

// ListTokens returns the tokens without their secrets, oldest first.
func (c *Cluster) ListTokens() ([]api.JoinToken, error) {
	t, err := c.state()
	if err != nil {
		return nil, err
	}
	out := []api.JoinToken{}
	for _, e := range t.tokens.List("") {
		out = append(out, e.Value.shown(e.Key, c.cfg.now()))
	}
	slices.SortFunc(out, func(a, b api.JoinToken) int { return a.CreatedAt.Compare(b.CreatedAt) })
	return out, nil
}

// RevokeToken makes a token useless.
func (c *Cluster) RevokeToken(ctx context.Context, id string) error {
	t, err := c.state()
	if err != nil {
		return err
	}
	c.findToken(ctx, t, id)
	_, err = change(ctx, t.tokens, tokenKey(id), func(r *tokenRecord, there bool) error {
		if !there {
			return api.Errorf(api.CodeNotFound, "there is no join token %q", api.Clip(id)).WithHint("perigee node tokens lists them; the ID is the second part of a token's text")
		}
		r.Revoked = true
		return nil
	})
	return err
}

// tokenKey makes a key of what may not be one.
func tokenKey(id string) string {
	if len(id) != idLen || !decode(id, make([]byte, 5)) {
		return "none"
	}
	return id
}

// findToken waits a moment for a token that another node made just now.
func (c *Cluster) findToken(ctx context.Context, t *tables, id string) (tokenRecord, bool) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	for {
		if e, ok := t.tokens.Get(tokenKey(id)); ok {
			return e.Value, true
		}
		select {
		case <-ctx.Done():
			return tokenRecord{}, false
		case <-time.After(50 * time.Millisecond):
		}
	}
}

var errUnknownToken = api.Errorf(api.CodeForbidden, "the cloud does not know this join token").
	WithHint("make a new one with perigee node token, on a node of the cloud")

// check reports why a key may not join with the token; used tells that it did
// before.
func (r tokenRecord) check(tok Token, key string, now time.Time) (used bool, err error) {
	used = slices.Contains(r.Keys, key)
	refused := func(format string, a ...any) *api.Error {
		return api.Errorf(api.CodeForbidden, format, a...).WithHint(errUnknownToken.Hint)
	}
	switch {
	case !tok.proves(r.Hash):
		return false, errUnknownToken
	case r.Revoked:
		return used, refused("the join token %s was revoked", tok.ID)
	case used:
		return true, nil
	case r.Left < 1:
		return false, refused("the join token %s was used already, by %s", tok.ID, cmp.Or(strings.Join(r.Nodes, ", "), "another node"))
	case !now.Before(r.Expires):
		return false, refused("the join token %s expired on %s", tok.ID, r.Expires.UTC().Format("2006-01-02 15:04:05 MST"))
	}
	return false, nil
}

// permits reports why the token is not for such a node.
func (r tokenRecord) permits(n Node) error {
	if r.Region != "" && n.Region != r.Region {
		return api.Errorf(api.CodeForbidden, "the join token is for region %q, not %q", r.Region, n.Region).WithHint("join with --region " + r.Region + ", or make another token")
	}
	for _, role := range n.Roles {
		if len(r.Roles) > 0 && !slices.Contains(r.Roles, role) {
			return api.Errorf(api.CodeForbidden, "the join token is for the roles %s, not %s", strings.Join(r.Roles, ", "), role).WithHint("join with --roles " + strings.Join(r.Roles, ",") + ", or make another token")
		}
	}
	return nil
}

// useToken takes one use of the token for the key. The catalog decides: of two
// who use the last one at the same moment, one gets it.
func (c *Cluster) useToken(ctx context.Context, t *tables, tok Token, key, node string) error {
	_, err := change(ctx, t.tokens, tokenKey(tok.ID), func(r *tokenRecord, there bool) error {
		if !there {
			return errUnknownToken
		}
		used, err := r.check(tok, key, c.cfg.now())
		if err != nil {
			return err
		}
		if used {
			return errKeep
		}
		r.Left--
		r.Keys, r.Nodes = append(slices.Clone(r.Keys), key), append(slices.Clone(r.Nodes), node)
		return nil
	})
	return err
}

// sweepTokens forgets tokens that nobody asks for any more.
func (c *Cluster) sweepTokens(ctx context.Context) error {
	t, err := c.state()
	if err != nil {
		return err
	}
	var failed []error
	for _, e := range t.tokens.List("") {
		if c.cfg.now().After(e.Value.Expires.Add(tokenKept)) {
			failed = append(failed, t.tokens.Delete(ctx, e.Key))
		}
	}
	if err := errors.Join(failed...); err != nil {
		return fmt.Errorf("cannot forget old join tokens: %w", err)
	}
	return nil
}
