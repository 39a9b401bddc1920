package node

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"testing"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/app"
	"github.com/perigee-run/perigee/catalog"
)

// TestHeirs: a node that was down while an app was destroyed forgets what it kept of
// it, once it knows all apps, whether or not another has the name by then.
func TestHeirs(t *testing.T) {
	dir := t.TempDir()
	c, err := catalog.Open(t.Context(), catalog.Config{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	apps, err := app.New(app.Config{Catalog: c, KeyFile: filepath.Join(dir, "secrets.key"), Domain: "perigee.example"})
	if err != nil {
		t.Fatal(err)
	}
	known, err := catalog.NewLocal[heir](c, "heirs")
	if err != nil {
		t.Fatal(err)
	}
	var forgot []string
	var fault error
	synced := true
	h := &heirs{known: known, app: apps.Get, synced: func() bool { return synced }, log: slog.New(slog.DiscardHandler),
		forget: func(_ context.Context, name string) error { forgot = append(forgot, name); return fault }}
	forgets := func(when string, want ...string) {
		t.Helper()
		h.settleAll(t.Context())
		h.settle(t.Context(), "shop")
		if !slices.Equal(forgot, want) {
			t.Errorf("%s: forgot %v, want %v", when, forgot, want)
		}
		forgot = nil
	}
	create := func(name string) {
		t.Helper()
		if _, err := apps.Create(t.Context(), api.CreateAppRequest{AppName: name}); err != nil {
			t.Fatal(err)
		}
	}
	destroy := func(name string) {
		t.Helper()
		if err := apps.Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	forgets("no app")
	create("shop")
	create("wiki")
	forgets("a new app")
	h.settle(t.Context(), "wiki")
	destroy("shop")
	create("shop")
	synced = false
	forgets("who may not know all apps")
	synced = true
	forgets("another app of the name", "shop")
	forgets("once more")
	destroy("wiki")
	fault = errors.New("the disk is full")
	forgets("no app of the name any more, and it fails", "wiki")
	fault = nil
	forgets("tried again", "wiki")
	forgets("done")
}
