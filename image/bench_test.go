package image_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"testing"

	"github.com/google/go-containerregistry/pkg/compression"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/perigee-run/perigee/image"
)

// mixed is content that compresses about as well as programs do.
func mixed(r *rand.Rand, size int) string {
	b := make([]byte, size)
	for i := 0; i < size; {
		n := min(16+r.IntN(64), size-i)
		if i > 4096 && r.IntN(3) > 0 { // repeat something from before
			copy(b[i:i+n], b[i-1-r.IntN(4095):])
		} else {
			for j := range n {
				b[i+j] = byte(r.Uint32N(200))
			}
		}
		i += n
	}
	return string(b)
}

// hundredMB is an image of five layers and some thousand files.
func hundredMB(b *testing.B, c compression.Compression) v1.Image {
	r := rand.New(rand.NewPCG(1, 2))
	var layers []v1.Layer
	for l, size := range []int{50 << 20, 25 << 20, 15 << 20, 9 << 20, 1 << 20} {
		var entries []entry
		for n := 0; size > 0; n++ {
			part := min(size, 1<<(10+r.IntN(11)))
			size -= part
			entries = append(entries, file(fmt.Sprintf("usr/lib/l%d/d%d/file-%d", l, n%100, n), mixed(r, part)))
		}
		layers = append(layers, pack(b, archive(b, entries...), c))
	}
	return build(b, v1.Config{}, layers...)
}

// BenchmarkPull100MB is from the built-in registry to a rootfs that is synced.
func BenchmarkPull100MB(b *testing.B) {
	for name, c := range map[string]compression.Compression{"gzip": compression.GZip, "zstd": compression.ZStd, "plain": compression.None} {
		b.Run(name, func(b *testing.B) {
			dir := b.TempDir()
			s := open(b, func(c *image.Config) { c.Dir = dir })
			push(b, serve(b, s)+"/big:v1", hundredMB(b, c))
			b.SetBytes(100 << 20)
			for b.Loop() {
				img, err := s.Pull(context.Background(), "registry.test/big:v1", nil)
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				forget(b, dir, img)
				s = reopen(b, image.Config{Dir: dir, MinFree: 1, Hosts: []string{"registry.test"}})
				b.StartTimer()
			}
			b.ReportMetric(float64(runtime.GOMAXPROCS(0)), "cores")
		})
	}
}

// forget makes a store lose a rootfs, so that it has to make it again.
func forget(b *testing.B, dir string, img image.Image) {
	b.Helper()
	if err := os.RemoveAll(dir + "/images"); err != nil {
		b.Fatal(err)
	}
	if err := os.Remove(img.Rootfs); err != nil {
		b.Fatal(err)
	}
}
