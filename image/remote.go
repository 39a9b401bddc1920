package image

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/perigee-run/perigee/image/blob"
	"github.com/perigee-run/perigee/image/registry"
)

// stalled is how long a download may go without a byte.
const stalled = time.Minute

// remoteRegistry is a registry over the network.
type remoteRegistry struct {
	store  *Store
	ref    reference
	puller *remote.Puller
	err    error // of making the puller
}

func newRemote(s *Store, r reference) origin {
	puller, err := remote.NewPuller(remote.WithAuthFromKeychain(s.cfg.Keychain), remote.WithTransport(s.outside(r)),
		remote.WithUserAgent("perigee"))
	return remoteRegistry{s, r, puller, err}
}

func (g remoteRegistry) vouches(digest string) bool {
	return g.store.hasSent(g.ref.registry, digest)
}

func (g remoteRegistry) key() string { return g.ref.registry }

func (g remoteRegistry) manifest(ctx context.Context, at string) ([]byte, string, error) {
	if g.err != nil {
		return nil, "", g.err
	}
	ref := g.ref.remote
	if blob.Valid(at) {
		ref = g.ref.remote.Context().Digest(at)
	}
	d, err := g.puller.Get(ctx, ref)
	if err != nil {
		return nil, "", g.explain(ctx, at, err)
	}
	return d.Manifest, string(d.MediaType), nil
}

func (g remoteRegistry) blob(ctx context.Context, digest string) (io.ReadCloser, error) {
	if g.err != nil {
		return nil, g.err
	}
	l, err := g.puller.Layer(ctx, g.ref.remote.Context().Digest(digest))
	if err != nil {
		return nil, g.explain(ctx, digest, err)
	}
	r, err := l.Compressed()
	if err != nil {
		return nil, g.explain(ctx, digest, err)
	}
	return r, nil
}

// notFound names the tags there are, when they are few.
func (g remoteRegistry) notFound(ctx context.Context, at string) error {
	if blob.Valid(at) && g.ref.digest != at {
		return fmt.Errorf("registry %s lacks %s, which the image needs", g.ref.registry, at)
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	hint := ""
	tags, err := g.puller.List(ctx, g.ref.remote.Context())
	if err == nil && len(tags) > 0 && len(tags) <= 10 && !slices.ContainsFunc(tags, func(t string) bool { return !registry.ValidTag(t) }) {
		hint = "; it has the tags " + strings.Join(tags, ", ")
	}
	return fmt.Errorf("%s has no %s at registry %s%s", g.ref.repository, at, g.ref.registry, hint)
}

// lookedAt names the credential files that were read, or would have been.
func lookedAt() string {
	var files []string
	dir := os.Getenv("DOCKER_CONFIG")
	if home, err := os.UserHomeDir(); dir == "" && err == nil {
		dir = filepath.Join(home, ".docker")
	}
	if dir != "" {
		files = append(files, filepath.Join(dir, "config.json"))
	}
	if run := os.Getenv("XDG_RUNTIME_DIR"); run != "" {
		files = append(files, filepath.Join(run, "containers", "auth.json"))
	}
	for i, f := range files {
		if _, err := os.Stat(f); err != nil {
			files[i] += " (not there)"
		}
	}
	return "credentials were looked for in " + strings.Join(files, " and ")
}

// watched ends a download that no longer moves.
type watched struct {
	r     io.Reader
	timer *time.Timer
}

// watch cancels with a cause when no byte came for a while.
func watch(r io.Reader, cancel context.CancelCauseFunc) *watched {
	timer := time.AfterFunc(stalled, func() {
		cancel(fmt.Errorf("no data for %v", stalled))
	})
	return &watched{r, timer}
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if n > 0 {
		w.timer.Reset(stalled)
	}
	if err != nil {
		w.timer.Stop()
	}
	return n, err
}

// copyBlob copies at most one byte more than size, so that a longer blob shows.
func copyBlob(to io.Writer, from *watched, size int64, tell func(Progress)) error {
	defer from.timer.Stop()
	told := reporter{io.LimitReader(from, size+1), func(n int) { tell(Progress{Done: int64(n)}) }}
	_, err := io.CopyBuffer(struct{ io.Writer }{to}, told, make([]byte, 256<<10))
	return err
}
