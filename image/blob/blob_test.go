package blob_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/perigee-run/perigee/image/blob"
)

func open(t *testing.T) (s *blob.Store, tmp string) {
	t.Helper()
	tmp = t.TempDir()
	s, err := blob.Open(filepath.Join(t.TempDir(), "blobs"), tmp)
	if err != nil {
		t.Fatal(err)
	}
	return s, tmp
}

func TestPutGetRemove(t *testing.T) {
	s, tmp := open(t)
	digest, err := s.Put([]byte("hello"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.Read(digest, 5); err != nil || string(got) != "hello" {
		t.Errorf("Read: %q, %v", got, err)
	}
	if _, err := s.Read(digest, 4); err == nil {
		t.Error("Read past its limit")
	}
	seen := 0
	err = s.Each(func(d string, size int64, used time.Time) error {
		seen++
		if d != digest || size != 5 || time.Since(used) > time.Minute {
			t.Errorf("Each: %s %d %v", d, size, used)
		}
		return nil
	})
	if err != nil || seen != 1 {
		t.Errorf("Each: %d blobs, %v", seen, err)
	}
	if freed, err := s.Remove(digest); err != nil || freed != 5 {
		t.Errorf("Remove: %d, %v", freed, err)
	}
	if freed, err := s.Remove(digest); err != nil || freed != 0 {
		t.Errorf("Remove again: %d, %v", freed, err)
	}
	if _, err := s.Get(digest); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Get after Remove: %v", err)
	}
	leavesNothing(t, tmp)
}

func TestCommitVerifies(t *testing.T) {
	s, tmp := open(t)
	for name, c := range map[string]struct {
		digest string
		size   int64
	}{
		"other digest": {blob.Of([]byte("other")), -1},
		"other size":   {blob.Of([]byte("hello")), 4},
	} {
		t.Run(name, func(t *testing.T) {
			w, err := s.Create()
			if err != nil {
				t.Fatal(err)
			}
			w.Write([]byte("hello"))
			if err := w.Commit(c.digest, c.size); !errors.Is(err, blob.ErrMismatch) {
				t.Errorf("got %v", err)
			}
			w.Abort()
			if _, ok := s.Stat(c.digest); ok {
				t.Error("the blob is there")
			}
		})
	}
	leavesNothing(t, tmp)
}

func leavesNothing(t *testing.T, tmp string) {
	t.Helper()
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("left in tmp: %v, %v", left, err)
	}
}

func TestReadNoticesRot(t *testing.T) {
	s, _ := open(t)
	digest, err := s.Put([]byte("hello"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.Path(digest), []byte("hallo"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Read(digest, 100); !errors.Is(err, blob.ErrMismatch) {
		t.Errorf("got %v", err)
	}
}

func TestValid(t *testing.T) {
	for d, want := range map[string]bool{
		blob.Of(nil):                              true,
		"sha256:" + strings.Repeat("A", 64):       false,
		"sha256:" + strings.Repeat("a", 63):       false,
		"sha512:" + strings.Repeat("a", 64):       false,
		"sha256:../" + strings.Repeat("a", 61):    false,
		"":                                        false,
		"sha256:" + strings.Repeat("a", 63) + "/": false,
	} {
		if blob.Valid(d) != want {
			t.Errorf("Valid(%q) = %v", d, !want)
		}
	}
}
