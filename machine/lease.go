package machine

import (
	"context"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/perigee-run/perigee/api"
)

const (
	defaultLease = 30 * time.Second
	maxLease     = 24 * time.Hour
)

// held returns the lease if it has not expired.
func (r *Record) held(now time.Time) *api.Lease {
	if r.Lease == nil || now.Unix() >= r.Lease.ExpiresAt {
		return nil
	}
	return r.Lease
}

// admits reports why a change under this nonce is not allowed: somebody else
// has a lease, or the caller's own has ended.
func (m *machine) admits(nonce string) error {
	r := &m.now().rec
	switch l := r.held(time.Now()); {
	case l == nil && nonce != "":
		return api.Errorf(api.CodeConflict, "the lease of machine %q has expired or was released", m.id).
			WithHint("ask for a new lease")
	case l != nil && l.Nonce != nonce:
		return leased(m.id, l)
	}
	return nil
}

func leased(id string, l *api.Lease) error {
	e := api.Errorf(api.CodeConflict, "machine %q is leased to %s until %s", id, l.Owner,
		time.Unix(l.ExpiresAt, 0).UTC().Format(time.RFC3339))
	if l.Description != "" {
		e.Message += " (" + l.Description + ")"
	}
	return e.WithHint("wait until then, or send the lease's nonce in fly-machine-lease-nonce")
}

// AcquireLease gives owner the exclusive right to change the machine for
// req.TTL seconds (default 30, at most a day). With the nonce of the lease that
// is held it is prolonged and stays the same. 409 if somebody else has it.
func (h *Host) AcquireLease(ctx context.Context, id, owner string, req api.LeaseRequest, nonce string) (api.Lease, error) {
	ttl, err := leaseTTL("ttl", req.TTL)
	if err != nil {
		return api.Lease{}, err
	}
	m, err := h.find(ctx, id)
	if err != nil {
		return api.Lease{}, err
	}
	if m.now().gone {
		return api.Lease{}, notFound(id)
	}
	l, err := m.lease(owner, req.Description, nonce, ttl)
	if err != nil {
		return api.Lease{}, err
	}
	return l, m.sync(ctx)
}

// lease decides under the lock, so that of two who ask exactly one gets it. It
// does not need the turn: who works on the machine has been admitted already.
func (m *machine) lease(owner, description, nonce string, ttl time.Duration) (l api.Lease, err error) {
	orElse(&owner, "unknown")
	now := time.Now()
	m.changeLease(func(r *Record) {
		held := r.held(now)
		switch {
		case held != nil && held.Nonce != nonce:
			err = leased(m.id, held)
			return
		case held == nil && nonce != "":
			err = m.admits(nonce)
			return
		case held != nil:
			l = *held
		default:
			l = api.Lease{Nonce: ulid.Make().String(), Owner: owner, Description: description}
		}
		l.ExpiresAt, l.Version = now.Add(ttl).Unix(), r.Version
		if description != "" {
			l.Description = description
		}
		own := l
		r.Lease = &own
	})
	return l, err
}

// changeLease edits the lease without making the record look updated.
func (m *machine) changeLease(edit func(*Record)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.edit(func(v *view) { edit(&v.rec) })
	m.save()
}

func leaseTTL(field string, seconds int) (time.Duration, error) {
	ttl := time.Duration(seconds) * time.Second
	orElse(&ttl, defaultLease)
	if seconds < 0 || seconds > int(maxLease/time.Second) {
		return 0, invalid(field, "a lease lasts 1 to %d seconds, not %d", int(maxLease/time.Second), seconds)
	}
	return ttl, nil
}

// GetLease returns the lease that is held; api.CodeNotFound if none is.
func (h *Host) GetLease(ctx context.Context, id string) (api.Lease, error) {
	m, err := h.find(ctx, id)
	if err != nil {
		return api.Lease{}, err
	}
	l := m.now().rec.held(time.Now())
	if l == nil {
		return api.Lease{}, api.Errorf(api.CodeNotFound, "machine %q is not leased", id)
	}
	return *l, nil
}

// ReleaseLease ends the lease. One that has ended already is no error.
func (h *Host) ReleaseLease(ctx context.Context, id, nonce string) error {
	m, err := h.find(ctx, id)
	if err != nil {
		return err
	}
	if m.now().rec.State == api.StateDestroyed {
		return nil // the lease went with the machine
	}
	m.changeLease(func(r *Record) {
		switch l := r.held(time.Now()); {
		case l != nil && l.Nonce != nonce:
			err = leased(id, l)
		default:
			r.Lease = nil
		}
	})
	if err != nil {
		return err
	}
	return m.sync(ctx)
}
