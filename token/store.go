package token

import (
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/catalog"
	"github.com/perigee-run/perigee/token/caveat"
)

// Config says where the records are. All but Logger are required.
type Config struct {
	Catalog *catalog.Catalog
	// Key is what the tokens' own keys are derived from; all nodes have it.
	Key []byte
	// OrgOf is the owner of an app, "" where there is no such app.
	OrgOf func(app string) string
	// Logger receives what changes. Default: none.
	Logger *slog.Logger
}

// Record is what is kept of a token: all but its proof.
type Record struct {
	ID        string    `json:"id"`
	Kind      string    `json:"kind"`
	Name      string    `json:"name,omitempty"`
	Org       string    `json:"org"`
	App       string    `json:"app,omitempty"`
	Limits    []string  `json:"limits"`
	CreatedBy string    `json:"created_by,omitempty"`
	CreatedAt time.Time `json:"created_at"`
	ExpiresAt time.Time `json:"expires_at,omitzero"`
	RevokedAt time.Time `json:"revoked_at,omitzero"`
	LastUsed  time.Time `json:"last_used,omitzero"`
}

// Store is the tokens of the cloud. Its methods may be called from any goroutine.
type Store struct {
	cfg   Config
	table *catalog.Table[Record]

	mu   sync.Mutex // guards used
	used map[string]time.Time
}

// New opens the table "tokens".
func New(cfg Config) (*Store, error) {
	if cfg.Catalog == nil || len(cfg.Key) < 16 || cfg.OrgOf == nil {
		return nil, errors.New("cannot open tokens: the catalog, a key and the apps' owners are all needed")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	t, err := catalog.NewTable[Record](cfg.Catalog, "tokens")
	return &Store{cfg: cfg, table: t, used: map[string]time.Time{}}, err
}

// keyOf is the key that proves the token of the id.
func (s *Store) keyOf(id string) ([]byte, error) {
	return hkdf.Key(sha256.New, s.cfg.Key, nil, "perigee token "+id, 32)
}

func newID() string {
	var b [8]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// Holder is somebody with a valid token.
type Holder struct {
	Record
	Limits Limits
}

// Authenticate reads a token's text and checks all but what it is for: its proof,
// that it has a record, is not revoked, and that now is its time. The error is of
// the code unauthorized.
func (s *Store) Authenticate(text string) (Holder, error) {
	t, err := caveat.Read(text)
	if err != nil {
		return Holder{}, refused("%v", err)
	}
	var e catalog.Entry[Record]
	if catalog.CheckKey(t.ID()) == nil {
		e, _ = s.table.Get(t.ID())
	}
	key, err := s.keyOf(t.ID())
	if err != nil {
		return Holder{}, err
	}
	// The proof first: who cannot prove a token learns nothing of it.
	if err := t.Verify(key); err != nil {
		return Holder{}, refused("%v", err)
	}
	h := Holder{Record: e.Value}
	switch {
	case h.ID == "":
		return Holder{}, refused("the token is not known: it was removed, or is another cloud's")
	case !h.RevokedAt.IsZero():
		return Holder{}, refused("the token was revoked at %s", h.RevokedAt.UTC().Format(time.RFC3339))
	}
	// What the record says holds, whatever the text says.
	if h.Limits, err = caveat.ParseAll(append(slices.Clone(h.Record.Limits), t.Lines()...)); err != nil {
		return Holder{}, refused("%v", err)
	}
	now := time.Now()
	if err := h.Limits.untimely(now); err != nil {
		return Holder{}, err
	}
	s.touch(h.ID, now)
	return h, nil
}

// Who names the holder in lists and logs.
func (h Holder) Who() string {
	if h.Name != "" {
		return "token:" + h.ID + " (" + h.Name + ")"
	}
	return "token:" + h.ID
}

// List returns the org's tokens, newest first.
func (s *Store) List(org string) []api.TokenInfo {
	out := []api.TokenInfo{}
	for _, e := range s.table.List("") {
		if e.Value.Org == org {
			out = append(out, e.Value.shown())
		}
	}
	slices.SortFunc(out, func(a, b api.TokenInfo) int { return b.CreatedAt.Compare(a.CreatedAt) })
	return out
}

func (r Record) shown() api.TokenInfo {
	when := func(t time.Time) *time.Time {
		if t.IsZero() {
			return nil
		}
		return &t
	}
	return api.TokenInfo{ID: r.ID, Kind: r.Kind, Name: r.Name, Org: r.Org, App: r.App, Limits: r.Limits, CreatedBy: r.CreatedBy, CreatedAt: r.CreatedAt,
		ExpiresAt: when(r.ExpiresAt), RevokedAt: when(r.RevokedAt), LastUsed: when(r.LastUsed)}
}

// Revoke makes a token useless on all nodes; api.CodeNotFound if the org has none
// of the id. It may be repeated.
func (s *Store) Revoke(ctx context.Context, org, id string) error {
	return s.edit(ctx, id, func(r *Record) error {
		if r.ID == "" || r.Org != org {
			return api.Errorf(api.CodeNotFound, "org %q has no token %s", org, quote(id)).WithHint("perigee tokens list shows them")
		}
		if r.RevokedAt.IsZero() {
			r.RevokedAt = time.Now().UTC()
			s.cfg.Logger.Info("token revoked", "token", id, "org", org)
		}
		return nil
	})
}

// edit changes a record until nobody was in between.
func (s *Store) edit(ctx context.Context, id string, change func(*Record) error) error {
	for {
		var e catalog.Entry[Record]
		if catalog.CheckKey(id) == nil {
			e, _ = s.table.Get(id)
		}
		r := e.Value
		if err := change(&r); err != nil {
			return err
		}
		_, err := s.table.Update(ctx, id, r, e.Revision)
		if !errors.Is(err, catalog.ErrConflict) || ctx.Err() != nil {
			return err
		}
		time.Sleep(10 * time.Millisecond) // the other's change is on its way to our memory
	}
}
