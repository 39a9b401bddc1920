package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/perigee-run/perigee/image/blob"
	"github.com/perigee-run/perigee/image/manifest"
)

// Peers knows the stores whose built-in registries have what this one's may
// lack.
type Peers interface {
	// Sources lists those that can be asked now, the nearest first.
	Sources(ctx context.Context) []Source
}

// Source is another store's built-in registry.
type Source struct {
	Name string
	// Client reaches it and proves who asks; BaseURL is what "/v2/" goes behind.
	Client  *http.Client
	BaseURL string
}

type noPeers struct{}

func (noPeers) Sources(context.Context) []Source { return nil }

// peerWait is how long a peer may take to begin its answer.
const peerWait = 10 * time.Second

// Prefetch makes the image that ref names ready, so that a machine which needs
// it soon does not wait for it.
func (s *Store) Prefetch(ctx context.Context, ref string) error {
	_, err := s.Pull(ctx, ref, nil)
	return err
}

// shared is the built-in registries of all nodes: this one's first, then its
// peers'. A tag leads where this node's own does if it has it, else where it
// was last pushed among the peers that answer. Content is verified by digest, so
// it does not matter who sends it.
type shared struct {
	builtIn
	sources func() []Source
}

func (s *Store) shared(ctx context.Context, repo string) origin {
	return shared{builtIn{s, repo}, sync.OnceValue(func() []Source { return s.cfg.Peers.Sources(ctx) })}
}

func (o shared) manifest(ctx context.Context, at string) ([]byte, string, error) {
	content, mediaType, err := o.builtIn.manifest(ctx, at)
	if err == nil {
		return content, mediaType, nil
	}
	found, silent := o.ask(ctx, at)
	if found == nil && silent > 0 {
		return nil, "", fmt.Errorf("%w; %d of %d other nodes did not answer", err, silent, len(o.sources()))
	}
	if found == nil {
		return nil, "", err
	}
	return found.content, found.mediaType, nil
}

// found is a manifest that a peer has.
type found struct {
	content   []byte
	mediaType string
	pushed    time.Time
}

// ask asks all peers at once and takes the manifest that was pushed last; by
// digest, the first.
func (o shared) ask(ctx context.Context, at string) (best *found, silent int) {
	ctx, cancel := context.WithTimeout(ctx, peerWait)
	defer cancel()
	type answer struct {
		*found
		err error
	}
	sources := o.sources()
	answers := make(chan answer, len(sources))
	for _, src := range sources {
		go func() {
			f, err := src.manifest(ctx, o.repo, at)
			answers <- answer{f, err}
		}()
	}
	for range sources {
		a := <-answers
		switch {
		case a.err != nil:
			silent++
		case a.found == nil, blob.Valid(at) && blob.Of(a.content) != at:
		case best == nil || a.pushed.After(best.pushed):
			best = a.found
		}
		if best != nil && blob.Valid(at) {
			cancel() // the others are not needed, but waited for
		}
	}
	return best, silent
}

// manifest is nil if the peer has none.
func (src Source) manifest(ctx context.Context, repo, at string) (*found, error) {
	resp, err := src.get(ctx, "/v2/"+repo+"/manifests/"+at, 0)
	if err != nil || resp == nil {
		return nil, err
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(io.LimitReader(resp.Body, manifest.MaxSize+1))
	if err == nil && len(content) > manifest.MaxSize {
		err = fmt.Errorf("node %q sent a manifest of more than %d bytes", src.Name, manifest.MaxSize)
	}
	if err != nil {
		return nil, err
	}
	pushed, _ := http.ParseTime(resp.Header.Get("Last-Modified")) // zero if it says none
	return &found{content, resp.Header.Get("Content-Type"), pushed}, nil
}

// get asks for a path from an offset on; nil if the peer does not have it.
func (src Source) get(ctx context.Context, path string, from int64) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, src.BaseURL+path, nil)
	if err != nil {
		return nil, err
	}
	want := http.StatusOK
	if from > 0 {
		req.Header.Set("Range", "bytes="+strconv.FormatInt(from, 10)+"-")
		want = http.StatusPartialContent
	}
	resp, err := src.Client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("node %q: %w", src.Name, err)
	}
	if resp.StatusCode == want {
		return resp, nil
	}
	resp.Body.Close()
	if resp.StatusCode == http.StatusNotFound {
		return nil, nil
	}
	return nil, fmt.Errorf("node %q answered %s", src.Name, resp.Status)
}

// blob opens a blob at the first peer that has it. Should the peer break off,
// the next one goes on from there.
func (o shared) blob(ctx context.Context, digest string) (io.ReadCloser, error) {
	r := &relay{ctx: ctx, path: "/v2/" + o.repo + "/blobs/" + digest, left: o.sources()}
	if !r.next() {
		_, err := o.builtIn.blob(ctx, digest)
		return nil, errors.Join(append([]error{err}, r.failed...)...)
	}
	return r, nil
}

// relay reads one blob, from one peer after another.
type relay struct {
	ctx    context.Context // of the pull, which the reader lives in
	path   string
	left   []Source
	body   io.ReadCloser
	done   int64
	failed []error
}

// next goes on at the next peer that has the blob.
func (r *relay) next() bool {
	for len(r.left) > 0 && r.ctx.Err() == nil {
		src := r.left[0]
		r.left = r.left[1:]
		resp, err := src.get(r.ctx, r.path, r.done)
		if err != nil {
			r.failed = append(r.failed, err)
		}
		if resp != nil {
			r.body = resp.Body
			return true
		}
	}
	return false
}

// Read reads on, elsewhere if it must.
func (r *relay) Read(p []byte) (int, error) {
	for {
		n, err := r.body.Read(p)
		r.done += int64(n)
		if err == nil || errors.Is(err, io.EOF) || n > 0 {
			if err != nil && !errors.Is(err, io.EOF) {
				err = nil // it comes again with the next call
			}
			return n, err
		}
		r.body.Close()
		if !r.next() {
			r.body = http.NoBody
			return 0, err
		}
	}
}

// Close ends the reading.
func (r *relay) Close() error { return r.body.Close() }

// keep makes what was had from a peer part of this node's own registry, so that
// others can have it from here. That it fails is no reason not to run the image.
func (s *Store) keep(repo string, found resolved) {
	if _, _, ok := s.repos.Manifest(repo, found.digest); ok {
		return
	}
	err := func() error {
		for _, d := range found.manifest.Refers() {
			if err := s.repos.Link(repo, d.Digest); err != nil {
				return err
			}
		}
		_, err := s.repos.Put(repo, "", found.manifest.MediaType, found.content)
		return err
	}()
	if err != nil {
		s.cfg.Logger.Warn("cannot offer an image to other nodes", "digest", found.digest, "error", err)
	}
}
