package app

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"filippo.io/age"
	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/app/keyfile"
	"github.com/perigee-run/perigee/catalog"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*Server).WaitForShutdown"),
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"))
}

// open makes a store in dir, with a catalog of its own.
func open(t testing.TB, dir string, cfg Config) (*Store, *catalog.Catalog) {
	t.Helper()
	c, err := catalog.Open(t.Context(), catalog.Config{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	cfg.Catalog, cfg.KeyFile, cfg.Domain = c, filepath.Join(dir, "secrets.key"), "perigee.example"
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s, c
}

func create(t testing.TB, s *Store, name string) App {
	t.Helper()
	a, err := s.Create(t.Context(), api.CreateAppRequest{AppName: name})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestNames(t *testing.T) {
	for name, ok := range map[string]bool{
		"a": true, "shop": true, "shop-2": true, "0": true, strings.Repeat("a", 63): true,
		"": false, strings.Repeat("a", 64): false, "-a": false, "a-": false, "Shop": false, "a_b": false,
		"a.b": false, "a b": false, "api": false, "registry": false, "dashboard": false, "nearest": false, "internal": false, "xn--bcher-kva": false, "café": false, "a\x00": false,
	} {
		err := CheckName(name)
		if (err == nil) != ok {
			t.Errorf("CheckName(%q) = %v", name, err)
		}
		if err != nil && api.AsError(err).Field != "app_name" {
			t.Errorf("CheckName(%q) names field %q", name, api.AsError(err).Field)
		}
	}
}

func FuzzNames(f *testing.F) {
	for _, s := range []string{"shop", "*.example.com", "a..b", "\xff", "xn--", "A.B"} {
		f.Add(s)
	}
	s := &Store{}
	f.Fuzz(func(t *testing.T, name string) {
		if CheckName(name) == nil && catalog.CheckKey(name) != nil {
			t.Errorf("%q passes, but cannot be a key", name)
		}
		if s.checkHost(name) == nil && catalog.CheckKey(hostKey(name)) != nil {
			t.Errorf("host %q passes, but cannot be a key", name)
		}
		if checkSecrets(map[string]*string{name: nil}) == nil && strings.ContainsAny(name, "=\x00") {
			t.Errorf("%q passes as a variable", name)
		}
	})
}

func TestAppLife(t *testing.T) {
	s, _ := open(t, t.TempDir(), Config{})
	ctx := t.Context()
	a := create(t, s, "shop")
	if a.Org != "personal" || a.Network != "default" || a.ID == "" {
		t.Errorf("app = %+v", a)
	}
	if _, err := s.Create(ctx, api.CreateAppRequest{AppName: "shop"}); !api.IsCode(err, api.CodeNameTaken) {
		t.Errorf("second create: %v", err)
	}
	one, err := s.Create(ctx, api.CreateAppRequest{Name: "again", IdempotencyKey: "k"})
	if err != nil {
		t.Fatal(err)
	}
	if two, err := s.Create(ctx, api.CreateAppRequest{Name: "again", OrgSlug: "other", IdempotencyKey: "k"}); !api.IsCode(err, api.CodeNameTaken) {
		t.Errorf("another org's key gives %+v, %v", two, err)
	}
	if two, err := s.Create(ctx, api.CreateAppRequest{Name: "again", IdempotencyKey: "k"}); err != nil || two.ID != one.ID {
		t.Errorf("repeated create = %+v, %v", two, err)
	}
	for _, bad := range []string{"", "none", "a..b", "x y"} {
		if _, err := s.Get(bad); !api.IsCode(err, api.CodeNotFound) {
			t.Errorf("Get(%q): %v", bad, err)
		}
	}
	v := "1"
	if _, _, err := s.SetSecrets(ctx, "shop", map[string]*string{"A": &v}); err != nil {
		t.Fatal(err)
	}
	if err := s.AddHost(ctx, "shop", "shop.example.com"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.AddRelease(ctx, Release{Release: api.Release{App: "shop"}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Doom(ctx, "shop"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Org(ctx, "shop"); !api.IsCode(err, api.CodeConflict) {
		t.Errorf("an app on its way out still has an owner: %v", err)
	}
	if err := s.Delete(ctx, "shop"); err != nil {
		t.Fatal(err)
	}
	create(t, s, "shop")
	secrets, _, _ := s.ListSecrets("shop")
	if len(secrets)+len(s.Hosts("shop"))+len(s.Releases("shop")) != 0 {
		t.Error("a new app of the name inherits from the old one")
	}
}

func TestHosts(t *testing.T) {
	s, _ := open(t, t.TempDir(), Config{})
	ctx := t.Context()
	create(t, s, "one")
	create(t, s, "two")
	for _, h := range []string{"Shop.Example.com.", "*.example.com", "shop.example.com"} {
		if err := s.AddHost(ctx, "one", h); err != nil {
			t.Errorf("AddHost(%q): %v", h, err)
		}
	}
	if got := fmt.Sprint(s.Hosts("one")); got != "[*.example.com shop.example.com]" {
		t.Errorf("hosts = %s", got)
	}
	if all := s.AllHosts(); len(all) != 1 || !slices.Equal(all["one"], s.Hosts("one")) {
		t.Errorf("hosts of all apps: %v", all)
	}
	if err := s.AddHost(ctx, "two", "SHOP.example.com"); !api.IsCode(err, api.CodeNameTaken) {
		t.Errorf("a host of another app: %v", err)
	}
	for _, h := range []string{"", "com", "a..b", "1.2.3.4", "::1", "a_b.com", "*.com", "a.*.com", "x.perigee.example", "perigee.example", "a b.com", strings.Repeat("a.", 200) + "com"} {
		if err := s.AddHost(ctx, "one", h); !api.IsCode(err, api.CodeInvalid) {
			t.Errorf("AddHost(%q): %v", h, err)
		}
	}
	if err := s.RemoveHost(ctx, "two", "shop.example.com"); !api.IsCode(err, api.CodeNotFound) {
		t.Errorf("removing another app's host: %v", err)
	}
	if err := s.RemoveHost(ctx, "one", "shop.example.com"); err != nil {
		t.Fatal(err)
	}
	if err := s.AddHost(ctx, "two", "shop.example.com"); err != nil {
		t.Errorf("a host that is free again: %v", err)
	}
}

func TestFormerSecrets(t *testing.T) {
	s, _ := open(t, t.TempDir(), Config{})
	ctx := t.Context()
	create(t, s, "shop")
	for i := range keptSets + 3 {
		v := fmt.Sprint(i + 1)
		if _, version, err := s.SetSecrets(ctx, "shop", map[string]*string{"N": &v}); err != nil || version != uint64(i+1) {
			t.Fatal(version, err)
		}
	}
	newest := fmt.Sprint(keptSets + 3)
	for version, want := range map[uint64]string{1: newest, 2: newest, 3: "3", keptSets + 2: fmt.Sprint(keptSets + 2), keptSets + 3: newest} {
		if got, err := s.SecretsAt(ctx, "shop", version); err != nil || got["N"] != want {
			t.Errorf("version %d is %v, %v; want %s", version, got, err, want)
		}
	}
	if err := s.Delete(ctx, "shop"); err != nil {
		t.Fatal(err)
	}
	if left := s.oldSecrets.List(""); len(left) != 0 {
		t.Errorf("%d sets are left of an app that is gone", len(left))
	}
}

func TestSecrets(t *testing.T) {
	dir := t.TempDir()
	s, c := open(t, dir, Config{})
	ctx := t.Context()
	create(t, s, "shop")
	value := "postgres://very-secret"
	shown, version, err := s.SetSecrets(ctx, "shop", map[string]*string{"DATABASE_URL": &value, "EMPTY": new(string)})
	if err != nil || version != 1 || len(shown) != 2 || shown[0].Digest == "" || shown[0].Digest == shown[1].Digest {
		t.Fatalf("SetSecrets = %+v, %d, %v", shown, version, err)
	}
	if _, version, err = s.SetSecrets(ctx, "shop", map[string]*string{"EMPTY": nil}); err != nil || version != 2 {
		t.Fatalf("removal = %d, %v", version, err)
	}
	if _, _, err = s.SetSecrets(ctx, "shop", map[string]*string{"GONE": nil}); !api.IsCode(err, api.CodeNotFound) {
		t.Errorf("removal of what is not there: %v", err)
	}
	if _, _, err := s.SetSecrets(ctx, "none", map[string]*string{"A": &value}); !api.IsCode(err, api.CodeNotFound) {
		t.Errorf("secrets of no app: %v", err)
	}
	nul, long := "a\x00", strings.Repeat("x", maxSecrets+1)
	for name, v := range map[string]*string{"1A": &value, "A-B": &value, "A.B": &value, "": &value, "NUL": &nul, "LONG": &long} {
		if _, _, err := s.SetSecrets(ctx, "shop", map[string]*string{name: v}); !api.IsCode(err, api.CodeInvalid) || api.AsError(err).Field == "" {
			t.Errorf("secret %q: %v", name, err)
		}
	}
	if old, err := s.SecretsAt(ctx, "shop", 1); err != nil || len(old) != 2 || old["DATABASE_URL"] != value {
		t.Errorf("the first set is %v, %v", old, err)
	}
	for version, want := range map[uint64]int{0: 0, 1: 2, 2: 0, 9: 0} {
		if old := s.FormerSecrets("shop", version); len(old) != want || want == 2 && old[1].Name != "EMPTY" {
			t.Errorf("of former version %d are shown %+v", version, old)
		}
	}
	if none, err := s.SecretsAt(ctx, "shop", 0); err != nil || len(none) != 0 {
		t.Errorf("before the first set there was %v, %v", none, err)
	}
	c.Close()
	if strings.Contains(readAll(t, dir), "very-secret") {
		t.Error("the value is on disk in the clear")
	}
	if fi, _ := os.Stat(filepath.Join(dir, "secrets.key")); fi.Mode().Perm() != 0o600 {
		t.Errorf("key file has mode %v", fi.Mode())
	}
	s, c = open(t, dir, Config{})
	got, version, err := s.Secrets(ctx, "shop")
	if err != nil || version != 2 || len(got) != 1 || got["DATABASE_URL"] != value {
		t.Errorf("after a restart = %v, %d, %v", got, version, err)
	}
	c.Close()
	lostKey(t, dir)
}

// lostKey checks that a missing or foreign key is reported, not replaced.
func lostKey(t *testing.T, dir string) {
	key := filepath.Join(dir, "secrets.key")
	if _, err := openKey(filepath.Join(dir, "other.key"), "", true); err == nil {
		t.Error("a lost key was made anew")
	}
	if err := os.WriteFile(key, []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openKey(key, "", true); err == nil || !strings.Contains(err.Error(), "backup") {
		t.Errorf("a broken key: %v", err)
	}
	if err := os.WriteFile(key, bytes.Repeat([]byte("ab"), keySize), 0o600); err != nil {
		t.Fatal(err)
	}
	s, _ := open(t, dir, Config{})
	if _, _, err := s.Secrets(t.Context(), "shop"); err == nil || strings.Contains(err.Error(), "very") {
		t.Errorf("another key: %v", err)
	}
}

func TestSealIsBoundToItsPlace(t *testing.T) {
	k, err := newSealer(make([]byte, keySize))
	if err != nil {
		t.Fatal(err)
	}
	sealed := k.close("shop", "A", "v")
	if v, err := k.open("shop", "A", sealed); err != nil || v != "v" {
		t.Fatalf("open = %q, %v", v, err)
	}
	for _, place := range [][2]string{{"shop", "B"}, {"other", "A"}} {
		if _, err := k.open(place[0], place[1], sealed); err == nil {
			t.Errorf("opened at %v", place)
		}
	}
	if bytes.Equal(sealed, k.close("shop", "A", "v")) {
		t.Error("two seals are alike")
	}
}

func TestReleases(t *testing.T) {
	s, _ := open(t, t.TempDir(), Config{KeepReleases: 20})
	ctx := t.Context()
	create(t, s, "shop")
	create(t, s, "shop-2")
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if _, err := s.AddRelease(ctx, Release{Release: api.Release{App: "shop", Status: api.ReleaseRunning, Image: "a@sha256:1"}}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	all := s.Releases("shop")
	if len(all) != 10 || all[0].Version != 10 || all[9].Version != 1 {
		t.Fatalf("releases = %d, newest %d", len(all), all[0].Version)
	}
	if len(s.Releases("shop-2")) != 0 {
		t.Error("an app has the releases of its namesake")
	}
	finish(t, s, all, api.ReleaseFailed)
	all[4].Status = api.ReleaseComplete // v6
	finish(t, s, all[4:5], api.ReleaseComplete)
	if r, ok := s.CompleteRelease("shop", 0); !ok || r.Version != 6 {
		t.Errorf("newest complete = v%d", r.Version)
	}
	if _, ok := s.CompleteRelease("shop", 6); ok {
		t.Error("found a complete release before the first")
	}
	if _, err := s.Release("shop", 99); !api.IsCode(err, api.CodeNotFound) {
		t.Errorf("no release: %v", err)
	}
	if got := s.Images(1); len(got) != 1 || !got["sha256:1"] {
		t.Errorf("images = %v", got)
	}
	manyMore(ctx, t, s)
}

func finish(t *testing.T, s *Store, all []Release, status string) {
	t.Helper()
	for _, r := range all {
		r.Status = status
		if err := s.SaveRelease(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
}

// manyMore checks that old releases go, but not the one that runs.
func manyMore(ctx context.Context, t *testing.T, s *Store) {
	for range 25 {
		if _, err := s.AddRelease(ctx, Release{Release: api.Release{App: "shop", Status: api.ReleaseFailed}}); err != nil {
			t.Fatal(err)
		}
	}
	all := s.Releases("shop")
	if len(all) != 21 || all[20].Version != 6 || all[0].Version != 35 {
		t.Errorf("kept %d releases, v%d to v%d", len(all), all[len(all)-1].Version, all[0].Version)
	}
}

func TestChanges(t *testing.T) {
	s, _ := open(t, t.TempDir(), Config{})
	create(t, s, "shop")
	ctx, cancel := context.WithCancel(t.Context())
	ch := s.Changes(ctx)
	if got := <-ch; got != "shop" {
		t.Errorf("first = %q", got)
	}
	if err := s.AddHost(ctx, "shop", "a.example.com"); err != nil {
		t.Fatal(err)
	}
	if got := <-ch; got != "shop" {
		t.Errorf("after a host = %q", got)
	}
	cancel()
	for range ch {
	}
}

func readAll(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			b, _ := os.ReadFile(path)
			all.Write(b)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// TestWrappedKey: apps open with a key that age wraps, and with the identity only.
func TestWrappedKey(t *testing.T) {
	dir := t.TempDir()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	identity := filepath.Join(dir, "identity")
	if err := os.WriteFile(identity, []byte(id.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, c := open(t, dir, Config{})
	create(t, s, "shop")
	value := "v"
	if _, _, err := s.SetSecrets(t.Context(), "shop", map[string]*string{"KEY": &value}); err != nil {
		t.Fatal(err)
	}
	before, err := s.Derive("tokens")
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if err := keyfile.Wrap(filepath.Join(dir, "secrets.key"), "", id.Recipient().String()); err != nil {
		t.Fatal(err)
	}
	if _, err := openKey(filepath.Join(dir, "secrets.key"), "", true); err == nil || !strings.Contains(err.Error(), "--secrets-identity") {
		t.Error(err)
	}
	s, _ = open(t, dir, Config{Identity: identity})
	if got, _, err := s.Secrets(t.Context(), "shop"); err != nil || got["KEY"] != "v" {
		t.Errorf("%v, %v", got, err)
	}
	if after, err := s.Derive("tokens"); err != nil || !bytes.Equal(before, after) {
		t.Error("the tokens' key is another", err)
	}
}
