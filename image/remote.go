package image

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/perigee-run/perigee/image/blob"
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
	puller, err := remote.NewPuller(remote.WithAuthFromKeychain(s.cfg.Keychain), remote.WithTransport(s.http),
		remote.WithUserAgent("perigee"))
	return remoteRegistry{s, r, puller, err}
}

func (g remoteRegistry) vouches(digest string) bool {
	return g.store.hasSent(g.ref.registry, digest)
}

func (g remoteRegistry) key() string { return g.ref.registry }

func newTransport() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DialContext = (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	t.ResponseHeaderTimeout = 30 * time.Second
	t.DisableCompression = true // layers are compressed, and their digest is of what is sent
	return t
}

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

// explain says what a registry's refusal means to the one who deploys.
func (g remoteRegistry) explain(ctx context.Context, at string, err error) error {
	var refused *transport.Error
	var authority x509.UnknownAuthorityError
	var record tls.RecordHeaderError
	host := g.ref.registry
	switch text := err.Error(); {
	case ctx.Err() != nil:
		return alive(ctx)
	case errors.As(err, &refused) && refused.StatusCode == http.StatusNotFound:
		return g.notFound(ctx, at)
	case errors.As(err, &refused) && (refused.StatusCode == http.StatusUnauthorized || refused.StatusCode == http.StatusForbidden):
		return fmt.Errorf("registry %s refused (%d): the image is private or does not exist; %s; log in with: docker login %s",
			host, refused.StatusCode, lookedAt(), host)
	case errors.As(err, &refused) && refused.StatusCode == http.StatusTooManyRequests:
		return fmt.Errorf("registry %s asks for fewer requests (429); wait, or log in with: docker login %s", host, host)
	case strings.Contains(text, "server gave HTTP response to HTTPS client"), errors.As(err, &record):
		return fmt.Errorf("registry %s speaks plain HTTP; if you trust the network to it, list it as a plain-HTTP registry in the node's configuration", host)
	case errors.As(err, &authority), strings.Contains(text, "certificate"):
		return fmt.Errorf("registry %s cannot prove who it is: %w; install its CA certificate on this node", host, err)
	}
	return fmt.Errorf("registry %s: %w", host, err)
}

// notFound names the tags there are, when they are few.
func (g remoteRegistry) notFound(ctx context.Context, at string) error {
	if blob.Valid(at) && g.ref.digest != at {
		return fmt.Errorf("registry %s lacks %s, which the image needs", g.ref.registry, at)
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	hint := ""
	if tags, err := g.puller.List(ctx, g.ref.remote.Context()); err == nil && len(tags) > 0 && len(tags) <= 10 {
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
