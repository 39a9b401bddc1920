package certstore

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perigee-run/perigee/catalog"
)

func newStore(t *testing.T, dir string, key []byte) (*Store, func()) {
	t.Helper()
	c, err := catalog.Open(t.Context(), catalog.Config{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(c, key)
	if err != nil {
		t.Fatal(err)
	}
	stop := func() { s.Close(); c.Close() }
	t.Cleanup(stop)
	return s, stop
}

func TestStorage(t *testing.T) {
	s, _ := newStore(t, t.TempDir(), nil)
	ctx := t.Context()
	for _, k := range []string{"certificates/acme-v02/a.com/a.com.crt", "certificates/acme-v02/a.com/a.com.key",
		"certificates/acme-v02/wildcard_.b.com/b.crt", "acme/account.json"} {
		if err := s.Store(ctx, k, []byte(k)); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Load(ctx, k); err != nil || string(got) != k {
			t.Fatalf("load %q: %q %v", k, got, err)
		}
	}
	for _, tc := range []struct {
		dir       string
		recursive bool
		want      string
	}{
		{"", false, "acme certificates"},
		{"certificates/acme-v02", false, "certificates/acme-v02/a.com certificates/acme-v02/wildcard_.b.com"},
		{"certificates/acme-v02/a.com/", true, "certificates/acme-v02/a.com/a.com.crt certificates/acme-v02/a.com/a.com.key"},
		{"acme", true, "acme/account.json"},
	} {
		got, err := s.List(ctx, tc.dir, tc.recursive)
		slices.Sort(got)
		if err != nil || strings.Join(got, " ") != tc.want {
			t.Errorf("List(%q, %v) = %v %v, want %s", tc.dir, tc.recursive, got, err, tc.want)
		}
	}
	if info, err := s.Stat(ctx, "certificates/acme-v02"); err != nil || info.IsTerminal {
		t.Errorf("stat of a directory: %+v %v", info, err)
	}
	if info, err := s.Stat(ctx, "acme/account.json"); err != nil || !info.IsTerminal || info.Size != 17 || info.Modified.IsZero() {
		t.Errorf("stat of a value: %+v %v", info, err)
	}
	if err := s.Delete(ctx, "certificates/acme-v02/a.com"); err != nil {
		t.Fatal(err)
	}
	if s.Exists(ctx, "certificates/acme-v02/a.com") || !s.Exists(ctx, "certificates/acme-v02") {
		t.Error("delete of a directory took too little or too much")
	}
	_, loadErr := s.Load(ctx, "nothing")
	_, statErr := s.Stat(ctx, "nothing")
	_, listErr := s.List(ctx, "nothing", true)
	for _, err := range []error{loadErr, statErr, listErr} {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("missing key: %v", err)
		}
	}
	if err := s.Delete(ctx, "nothing"); err != nil {
		t.Error(err)
	}
}

func TestSealed(t *testing.T) {
	dir, key := t.TempDir(), bytes.Repeat([]byte{7}, 32)
	secret := []byte("-----BEGIN EC PRIVATE KEY----- very secret")
	s, stop := newStore(t, dir, key)
	if err := s.Store(t.Context(), "a.key", secret); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Load(t.Context(), "a.key"); err != nil || !bytes.Equal(got, secret) {
		t.Fatalf("%q %v", got, err)
	}
	stop()
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, _ error) error {
		if data, _ := os.ReadFile(path); bytes.Contains(data, []byte("PRIVATE KEY")) || bytes.Contains(data, []byte("LS0tLS1CRUdJ")) {
			t.Errorf("%s holds the secret in the clear", path)
		}
		return nil
	})
	for name, other := range map[string][]byte{"no key": nil, "other key": bytes.Repeat([]byte{8}, 32)} {
		s, stop := newStore(t, dir, other)
		if _, err := s.Load(t.Context(), "a.key"); err == nil {
			t.Errorf("%s opened it", name)
		}
		stop()
	}
}

func TestLockExcludes(t *testing.T) {
	s, _ := newStore(t, t.TempDir(), nil)
	var inside, most atomic.Int32
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			for range 5 {
				if err := s.Lock(t.Context(), "issue_cert_a.com"); err != nil {
					t.Error(err)
					return
				}
				most.Store(max(most.Load(), inside.Add(1)))
				time.Sleep(time.Millisecond)
				inside.Add(-1)
				if err := s.Unlock(t.Context(), "issue_cert_a.com"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if most.Load() != 1 {
		t.Fatalf("%d were inside", most.Load())
	}
	if err := s.Unlock(t.Context(), "issue_cert_a.com"); err == nil {
		t.Error("unlocked what is not locked")
	}
}

func TestLockOfTheDeadExpires(t *testing.T) {
	s, _ := newStore(t, t.TempDir(), nil)
	s.lockTTL = 300 * time.Millisecond
	if _, err := s.locks.Put(t.Context(), keyOf("x"), lockRecord{Holder: "dead"}); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Lock(short, "x"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("lock of a living holder: %v", err)
	}
	began := time.Now()
	if err := s.Lock(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	if time.Since(began) < s.lockTTL {
		t.Error("taken too early")
	}
	if err := s.Unlock(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
}

// TestLockGoesByChanges: what counts is that the holder goes on writing, not
// what its clock says.
func TestLockGoesByChanges(t *testing.T) {
	s, _ := newStore(t, t.TempDir(), nil)
	s.lockTTL = 3 * time.Second
	if _, err := s.locks.Put(t.Context(), keyOf("x"), lockRecord{Holder: "other"}); err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	go func() { got <- s.Lock(t.Context(), "x") }()
	for beat := range uint64(20) { // for 4 s
		time.Sleep(200 * time.Millisecond)
		if _, err := s.locks.Put(t.Context(), keyOf("x"), lockRecord{Holder: "other", Beat: beat + 1}); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-got:
			t.Fatalf("taken from a living holder: %v", err)
		default:
		}
	}
	select {
	case err := <-got:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the dead holder keeps it")
	}
}

func FuzzKey(f *testing.F) {
	f.Add("certificates/acme/wildcard_.a.com/x.crt")
	f.Add("=2e=/..")
	f.Fuzz(func(t *testing.T, key string) {
		got := encode(key)
		if decode(got) != key {
			t.Fatalf("%q became %q", key, decode(got))
		}
		if len(got) > 0 && len(got) <= 512 && catalog.CheckKey(got) != nil {
			t.Fatal(catalog.CheckKey(got))
		}
	})
}
