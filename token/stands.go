package token

import "time"

// Stands asks whether the token of an id still is good, for what was made with it
// and depends on it, such as an SSH certificate. The error is of the code
// unauthorized.
func (s *Store) Stands(id string) error {
	e, ok := s.table.Get(id)
	switch r := e.Value; {
	case !ok:
		return refused("the token %s is not known any more", id)
	case !r.RevokedAt.IsZero():
		return refused("the token %s was revoked at %s", id, r.RevokedAt.UTC().Format(time.RFC3339))
	case !r.ExpiresAt.IsZero() && !time.Now().Before(r.ExpiresAt):
		return refused("the token %s expired at %s", id, r.ExpiresAt.UTC().Format(time.RFC3339))
	}
	return nil
}
