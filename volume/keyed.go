package volume

import (
	"context"

	"github.com/perigee-run/perigee/api"
)

// alone waits until no other creation of the app under the key is under way: who sends
// one again gets what the first has made, or makes it if that came to nothing.
func (s *Store) alone(ctx context.Context, app, key string) (done func(), err error) {
	if key == "" {
		return func() {}, nil
	}
	name := app + "/" + key
	for {
		s.mu.Lock()
		other, busy := s.making[name]
		if !busy {
			mine := make(chan struct{})
			s.making[name] = mine
			s.mu.Unlock()
			return func() { s.made(name, mine) }, nil
		}
		s.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, api.Errorf(api.CodeTimeout, "the volume that was asked for under the same key is still being made")
		}
	}
}

func (s *Store) made(name string, mine chan struct{}) {
	s.mu.Lock()
	delete(s.making, name)
	s.mu.Unlock()
	close(mine)
}

// madeBy finds what an earlier creation of the app under the key has made.
func (s *Store) madeBy(o Owner, key string) *volume {
	for _, v := range s.all() {
		if r := v.now(); key != "" && r.CreateKey == key && r.AppID == o.ID && r.State != api.VolumeCreating {
			return v
		}
	}
	return nil
}
