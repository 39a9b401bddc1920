package logs

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/perigee-run/perigee/catalog"
)

// BenchmarkShip is 100-byte lines from the console file into the stream.
func BenchmarkShip(b *testing.B) {
	cat, err := catalog.Open(b.Context(), catalog.Config{Dir: b.TempDir(), Logger: quiet})
	if err != nil {
		b.Fatal(err)
	}
	defer cat.Close()
	store := New(b.Context(), Config{JetStream: cat.JetStream()})
	c, err := NewCollector(CollectorConfig{Store: store, Logger: quiet})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	data := bytes.Repeat([]byte(fmt.Sprintf("%099d\n", 7)), 100_000)
	path := filepath.Join(b.TempDir(), "console")
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		os.Remove(placePath(path))
		if err := os.WriteFile(path, data, 0o600); err != nil {
			b.Fatal(err)
		}
		if err := c.Follow(Machine{App: "a", Region: "r", ID: "m", Path: path}); err != nil {
			b.Fatal(err)
		}
		if err := c.Unfollow(b.Context(), "m"); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkTail100 is the last 100 lines of one app among 100,000 messages.
func BenchmarkTail100(b *testing.B) {
	cat, err := catalog.Open(b.Context(), catalog.Config{Dir: b.TempDir(), Logger: quiet})
	if err != nil {
		b.Fatal(err)
	}
	defer cat.Close()
	store := New(b.Context(), Config{JetStream: cat.JetStream()})
	for i := range 100_000 {
		l := Line{App: "noisy", Region: "r", Machine: "m", Text: "x"}
		if i%500 == 0 {
			l.App = "quiet"
		}
		if err := store.Append(b.Context(), l); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		n := 0
		for _, err := range store.Tail(b.Context(), Query{App: "quiet"}) {
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
		if n != 100 {
			b.Fatal(n)
		}
	}
}
