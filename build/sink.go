//go:build linux

package build

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/moby/buildkit/exporter/containerimage/exptypes"
)

// sink hands the finished image from BuildKit's exporter to Request.Import. The reader sees io.EOF only after the
// whole build succeeded: the exporter ends its stream in the same way when it fails, and half an archive must never
// look whole.
type sink struct {
	ctx    context.Context // the build's; open is called by BuildKit, which has no place for it
	req    Request
	result chan error // one value, once pipe is set

	mu      sync.Mutex // guards what follows
	pipe    *io.PipeWriter
	unwatch func() bool
}

func newSink(ctx context.Context, req Request) *sink {
	return &sink{ctx: ctx, req: req, result: make(chan error, 1)}
}

// open is told the digest before a byte of the archive is made; a nil writer tells BuildKit that it is not wanted.
func (s *sink) open(meta map[string]string) (io.WriteCloser, error) {
	digest := meta[exptypes.ExporterImageDigestKey]
	if s.req.Import == nil || (s.req.Have != nil && s.req.Have(digest)) {
		return nil, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pipe != nil {
		return nil, errors.New("cannot hand over more than one image")
	}
	r, w := io.Pipe()
	s.pipe = w
	s.unwatch = context.AfterFunc(s.ctx, func() { w.CloseWithError(context.Cause(s.ctx)) })
	go s.take(digest, r)
	return heldOpen{w}, nil
}

// take runs Import. Its result is there before the writer can notice that nobody reads any more: that order tells
// finish who failed first.
func (s *sink) take(digest string, r *io.PipeReader) {
	err := s.req.Import(s.ctx, digest, r)
	if err == nil {
		_, err = io.Copy(io.Discard, r) // padding that the importer had no need of
	}
	s.result <- err
	r.CloseWithError(errImportEnded)
}

var errImportEnded = errors.New("the import of the image ended early")

// finish ends the archive, well or not as the build did, and waits for Import. The error is Import's own; what it
// says about a build that failed or was called off is dropped.
func (s *sink) finish(buildErr error) (imported bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pipe == nil {
		return false, nil
	}
	s.unwatch()
	select {
	case err = <-s.result:
		if buildErr != nil && s.ctx.Err() != nil {
			err = nil
		}
		return true, err
	default:
	}
	s.pipe.CloseWithError(buildErr)
	if err = <-s.result; buildErr != nil {
		err = nil
	}
	return true, err
}

// heldOpen leaves the end of the archive to finish.
type heldOpen struct{ io.Writer }

func (heldOpen) Close() error { return nil }
