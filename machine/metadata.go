package machine

import (
	"context"
	"maps"
	"time"

	"github.com/perigee-run/perigee/machine/rules"
)

// Metadata returns a copy of the machine's metadata.
func (h *Host) Metadata(ctx context.Context, id string) (map[string]string, error) {
	m, err := h.find(ctx, id)
	if err != nil {
		return nil, err
	}
	out := maps.Clone(m.now().rec.Config.Metadata)
	if out == nil {
		out = map[string]string{}
	}
	return out, nil
}

// SetMetadata replaces all of the machine's metadata. Like the other changes of
// metadata it makes no new version and touches nothing that runs.
func (h *Host) SetMetadata(ctx context.Context, id string, all map[string]string, nonce string) error {
	return h.editMetadata(ctx, id, nonce, func(m map[string]string) {
		clear(m)
		maps.Copy(m, all)
	})
}

// PatchMetadata sets the entries that have a value and removes those that are nil.
func (h *Host) PatchMetadata(ctx context.Context, id string, patch map[string]*string, nonce string) error {
	return h.editMetadata(ctx, id, nonce, func(m map[string]string) {
		for k, v := range patch {
			if v == nil {
				delete(m, k)
			} else {
				m[k] = *v
			}
		}
	})
}

// DeleteMetadata removes one entry; one that is not there is no error.
func (h *Host) DeleteMetadata(ctx context.Context, id, key, nonce string) error {
	return h.editMetadata(ctx, id, nonce, func(m map[string]string) { delete(m, key) })
}

// editMetadata asks for no lease: who has one is not disturbed by a note, and Fly's
// clients leave notes on machines that they have leased themselves. A nonce that is
// given must be right all the same.
func (h *Host) editMetadata(ctx context.Context, id, nonce string, edit func(map[string]string)) error {
	if m, err := h.find(ctx, id); err == nil && nonce == "" {
		if l := m.now().rec.held(time.Now()); l != nil {
			nonce = l.Nonce
		}
	}
	return h.act(ctx, id, nonce, func(ctx context.Context, m *machine) error {
		c := withMetadata(m.now().rec.Config, edit)
		if err := rules.Metadata(c.Metadata); err != nil {
			return err
		}
		if n := rules.Size(&c); n > rules.MaxSize {
			return invalid("metadata", "makes a configuration of %d bytes, the most is %d", n, rules.MaxSize)
		}
		m.record(func(v *view) { v.rec.Config = c })
		return m.sync(ctx)
	})
}

// Cordon keeps the router from sending the machine anything; Uncordon lets it again.
func (h *Host) Cordon(ctx context.Context, id, nonce string) error {
	return h.setCordon(ctx, id, nonce, true)
}

// Uncordon lets the router send the machine requests again.
func (h *Host) Uncordon(ctx context.Context, id, nonce string) error {
	return h.setCordon(ctx, id, nonce, false)
}

func (h *Host) setCordon(ctx context.Context, id, nonce string, on bool) error {
	return h.act(ctx, id, nonce, func(ctx context.Context, m *machine) error {
		if m.now().rec.Cordoned != on {
			typ := map[bool]string{true: "cordon", false: "uncordon"}[on]
			m.record(func(v *view) {
				v.rec.Cordoned = on
				v.rec.note(typ, byUser, nil)
			})
		}
		return m.sync(ctx)
	})
}
