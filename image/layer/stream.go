package layer

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// maxWindow is the most memory a zstd stream may ask for.
const maxWindow = 128 << 20

var (
	gzipMagic = []byte{0x1f, 0x8b}
	zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}
	// skippable frames have 0x184d2a5? as magic; their first byte varies
	zstdSkip = []byte{0x2a, 0x4d, 0x18}
)

// Compression tells "gzip", "zstd" or "" from the first four bytes of data.
func Compression(head []byte) string {
	switch {
	case bytes.HasPrefix(head, gzipMagic):
		return "gzip"
	case bytes.HasPrefix(head, zstdMagic), len(head) >= 4 && bytes.Equal(head[1:4], zstdSkip):
		return "zstd"
	}
	return ""
}

// Decompress returns what r holds, unpacked when it is gzip or zstd. What is
// neither passes through.
func Decompress(r io.Reader) (io.ReadCloser, error) {
	br := bufio.NewReaderSize(r, 256<<10)
	head, err := br.Peek(4)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch Compression(head) {
	case "gzip":
		z, err := gzip.NewReader(br)
		if err != nil {
			return nil, fmt.Errorf("cannot read gzip data: %w", readable(err))
		}
		return z, nil
	case "zstd":
		z, err := zstd.NewReader(br, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, fmt.Errorf("cannot read zstd data: %w", err)
		}
		return z.IOReadCloser(), nil
	}
	return io.NopCloser(br), nil
}

const (
	chunkSize = 256 << 10
	ahead     = 32 // chunks that may wait
	ratioFrom = 256 << 20
)

var chunks = sync.Pool{New: func() any { b := make([]byte, chunkSize); return &b }}

// Stream unpacks a layer in a goroutine of its own, some way ahead of its
// reader, so that unpacking and merging overlap. Close it to end both.
type Stream struct {
	out    chan *[]byte
	stop   context.CancelFunc
	done   chan struct{}
	failed error // read after out is closed

	cur  *[]byte
	rest []byte
}

// NewStream starts to unpack r. A layer that becomes more than ratio times as
// large as it came is refused, once it is beyond what real layers do.
func NewStream(ctx context.Context, r io.Reader, ratio int64) *Stream {
	ctx, stop := context.WithCancel(ctx)
	s := &Stream{out: make(chan *[]byte, ahead), stop: stop, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		defer close(s.out)
		s.failed = s.unpack(ctx, r, ratio)
	}()
	return s
}

func (s *Stream) unpack(ctx context.Context, r io.Reader, ratio int64) error {
	in := &counter{r: r}
	z, err := Decompress(in)
	if err != nil {
		return err
	}
	defer z.Close()
	for n := int64(0); ; {
		buf := chunks.Get().(*[]byte)
		*buf, err = fill((*buf)[:chunkSize], z)
		n += int64(len(*buf))
		if n > ratioFrom && n/ratio > in.n {
			return fmt.Errorf("the layer unpacks to more than %d times its size", ratio)
		}
		if sendErr := s.send(ctx, buf); sendErr != nil {
			return sendErr
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot unpack the layer: %w", readable(err))
		}
	}
}

func (s *Stream) send(ctx context.Context, buf *[]byte) error {
	select {
	case s.out <- buf:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// fill reads until b is full. Unlike io.ReadFull it keeps a clean end (io.EOF)
// and a truncated stream (io.ErrUnexpectedEOF) apart.
func fill(b []byte, r io.Reader) ([]byte, error) {
	n := 0
	for n < len(b) {
		got, err := r.Read(b[n:])
		n += got
		if err != nil {
			return b[:n], err
		}
	}
	return b, nil
}

// Read returns the next unpacked bytes.
func (s *Stream) Read(p []byte) (int, error) {
	for len(s.rest) == 0 {
		if s.cur != nil {
			chunks.Put(s.cur)
			s.cur = nil
		}
		buf, ok := <-s.out
		if !ok && s.failed != nil {
			return 0, s.failed
		}
		if !ok {
			return 0, io.EOF
		}
		s.cur, s.rest = buf, *buf
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// Close ends the unpacking and waits for its goroutine, which is inside a read
// of the underlying reader at worst.
func (s *Stream) Close() error {
	s.stop()
	<-s.done
	return nil
}

// counter counts what is read through it.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
