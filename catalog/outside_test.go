package catalog

import (
	"net/url"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// TestOutsideServer has one catalog serve another: what the second one promises
// over a connection that can break.
func TestOutsideServer(t *testing.T) {
	dir, rev := t.TempDir(), must[uint64](t)
	host := open(t, Config{Dir: dir, Listen: "127.0.0.1:0"})
	at, err := url.Parse(host.Server().ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	guest := table(t, open(t, Config{Servers: []string{at.String()}, Node: "guest"}), "apps")
	changes := guest.Watch(t.Context(), "")
	hosted := table(t, host, "apps")
	rev(hosted.Put(t.Context(), "kept", rec{N: 1}))
	rev(hosted.Put(t.Context(), "lost", rec{N: 2}))
	expect(t, changes, "kept=1", "lost=2")
	r := rev(guest.Put(t.Context(), "mine", rec{N: 3}))
	expect(t, changes, "mine=3")
	if _, err := hosted.Update(t.Context(), "mine", rec{N: 4}, r); err != nil {
		t.Fatal(err)
	}
	expect(t, changes, "mine=4")

	host.Close()
	if e, ok := guest.Get("kept"); !ok || e.Value.N != 1 {
		t.Fatal("a read must not depend on the server")
	}
	deleteWithoutTrace(t, dir, "lost")
	back := table(t, open(t, Config{Dir: dir, Listen: at.Host}), "apps")
	expect(t, changes, "lost gone")
	rev(back.Put(t.Context(), "kept", rec{N: 9}))
	expect(t, changes, "kept=9")
}

// deleteWithoutTrace deletes a record while no one watches and removes its
// marker, as time would.
func deleteWithoutTrace(t *testing.T, dir, key string) {
	c := open(t, Config{Dir: dir})
	defer c.Close()
	if err := table(t, c, "apps").Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	s, err := c.JetStream().Stream(t.Context(), "KV_"+bucketName)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Purge(t.Context(), jetstream.WithPurgeSubject("$KV."+bucketName+".apps."+key)); err != nil {
		t.Fatal(err)
	}
}

// TestDeleteMarkersGo proves that deleted keys do not pile up in the store.
func TestDeleteMarkersGo(t *testing.T) {
	c := open(t, Config{markerTTL: time.Second})
	tab := table(t, c, "apps")
	must[uint64](t)(tab.Put(t.Context(), "k", rec{}))
	if err := tab.Delete(t.Context(), "k"); err != nil {
		t.Fatal(err)
	}
	s, err := c.JetStream().Stream(t.Context(), "KV_"+bucketName)
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		info, err := s.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if info.State.Msgs == 0 {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatal("the marker is still there")
}
