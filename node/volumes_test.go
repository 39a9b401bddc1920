package node

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"

	"filippo.io/age"
	"github.com/perigee-run/perigee/app/keyfile"
	"github.com/perigee-run/perigee/volume/objects"
	"github.com/perigee-run/perigee/volume/snapshot"
)

// sealing is a node with a key of the secrets, wrapped if that is said, and the key
// that it seals snapshots with.
func sealing(t *testing.T, digits string, wrap bool) []byte {
	t.Helper()
	n := &Node{cfg: Config{Data: t.TempDir()}}
	if err := os.WriteFile(n.path("secrets.key"), []byte(digits+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if wrap {
		id, err := age.GenerateX25519Identity()
		if err != nil {
			t.Fatal(err)
		}
		n.cfg.SecretsIdentity = n.path("identity")
		if err := os.WriteFile(n.cfg.SecretsIdentity, []byte(id.String()+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := keyfile.Wrap(n.path("secrets.key"), "", id.Recipient().String()); err != nil {
			t.Fatal(err)
		}
	}
	key, err := n.snapshotKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestWrappingKeepsSnapshots: nodes that have wrapped the key, each for itself, have
// the key of before, and what was sealed with it is restored.
func TestWrappingKeepsSnapshots(t *testing.T) {
	digits := hex.EncodeToString(bytes.Repeat([]byte{0xa7}, keyfile.Size))
	plain := sealing(t, digits, false)
	// What is stored already is sealed with it, so that this may never change.
	if got := hex.EncodeToString(plain); got != "b08646be85bf29493094551c3406ccc8b77aa0ce7ea63c6e0cadcdf601bc1a87" {
		t.Errorf("the key made of %s is %s", digits, got)
	}
	image := filepath.Join(t.TempDir(), "image")
	want := bytes.Repeat([]byte("rows of a database\n"), 1000)
	if err := os.WriteFile(image, want, 0o600); err != nil {
		t.Fatal(err)
	}
	place, m := objects.NewDir(t.TempDir()), &snapshot.Manifest{ID: "vs_1", Volume: "vol_1"}
	if err := repo(t, place, plain).Write(t.Context(), m, image); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		wrapped := sealing(t, digits, true)
		if !bytes.Equal(wrapped, plain) {
			t.Error("wrapping changes the key of snapshots")
		}
		r, to := repo(t, place, wrapped), filepath.Join(t.TempDir(), "restored")
		found, err := r.Find(t.Context(), "vs_1")
		if err == nil {
			err = r.Restore(t.Context(), found, to)
		}
		if got, _ := os.ReadFile(to); err != nil || !bytes.Equal(got, want) {
			t.Errorf("restored %d bytes of %d: %v", len(got), len(want), err)
		}
	}
}

func repo(t *testing.T, place objects.Store, key []byte) *snapshot.Repo {
	t.Helper()
	r, err := snapshot.New(place, key)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
