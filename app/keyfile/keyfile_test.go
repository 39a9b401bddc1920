package keyfile

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
)

func identity(t *testing.T, dir, name string) (path, recipient string) {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte("# made by age-keygen\n"+id.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path, id.Recipient().String()
}

func TestWrapAndUnwrap(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "secrets.key")
	mine, to := identity(t, dir, "mine")
	other, toOther := identity(t, dir, "other")
	if _, err := Read(path, ""); !errors.Is(err, ErrGone) {
		t.Fatal(err)
	}
	key, err := Make(path)
	if err != nil || Wrapped(path) {
		t.Fatal(err)
	}
	if err := Wrap(path, "", to); err != nil {
		t.Fatal(err)
	}
	b, _ := os.ReadFile(path)
	if fi, _ := os.Stat(path); fi.Mode().Perm() != 0o600 || !Wrapped(path) || bytes.Contains(b, []byte(hex.EncodeToString(key))) || bytes.Contains(b, key) {
		t.Errorf("%v %q", fi.Mode(), b)
	}
	if got, err := Read(path, mine); err != nil || !bytes.Equal(got, key) {
		t.Errorf("%x, %v", got, err)
	}
	for id, want := range map[string]string{"": "--secrets-identity", other: "identities in", filepath.Join(dir, "none"): "no such file", path: "no identity of age"} {
		if _, err := Read(path, id); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", id, err, want)
		}
	}
	if err := Wrap(path, mine, to, toOther); err != nil { // for two from now on
		t.Fatal(err)
	}
	if got, err := Read(path, other); err != nil || !bytes.Equal(got, key) {
		t.Errorf("%x, %v", got, err)
	}
	if err := Unwrap(path, other); err != nil || Wrapped(path) {
		t.Fatal(err)
	}
	if got, err := Read(path, ""); err != nil || !bytes.Equal(got, key) {
		t.Errorf("%x, %v", got, err)
	}
}

// TestWrapErrors change nothing.
func TestWrapErrors(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "secrets.key")
	if _, err := Make(path); err != nil {
		t.Fatal(err)
	}
	before, _ := os.ReadFile(path)
	for _, to := range [][]string{nil, {"age1x"}, {"ssh-rsa x"}, {""}} {
		if err := Wrap(path, "", to...); err == nil {
			t.Errorf("wrapped for %q", to)
		}
	}
	if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
		t.Error("the file has changed")
	}
	fresh := filepath.Join(dir, "new.key")
	id, to := identity(t, dir, "id")
	if err := Wrap(fresh, "", to); err != nil {
		t.Fatal(err)
	}
	if key, err := Read(fresh, id); err != nil || len(key) != Size {
		t.Errorf("a new key: %x, %v", key, err)
	}
	if err := os.WriteFile(path, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(path, ""); err == nil || !strings.Contains(err.Error(), "64 hexadecimal digits") {
		t.Error(err)
	}
}
