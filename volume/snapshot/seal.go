package snapshot

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// The head of every sealed object: its format and how its plain text is packed.
const (
	format  = 1
	asItIs  = 0
	byZstd  = 1
	headLen = 2
)

// box seals objects and opens them again.
type box struct{ aead cipher.AEAD }

// newBox derives a key for one purpose from the cloud's.
func newBox(master []byte, purpose, about string) (box, error) {
	key, err := hkdf.Key(sha256.New, master, []byte(about), "perigee snapshot "+purpose, 32)
	if err != nil {
		return box{}, err
	}
	b, err := aes.NewCipher(key)
	if err != nil {
		return box{}, err
	}
	aead, err := cipher.NewGCM(b)
	return box{aead}, err
}

var packer = sync.OnceValues(func() (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
})

var unpacker = sync.OnceValues(func() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxPlain))
})

// maxPlain bounds what a sealed object may unpack to: a manifest of 16 TiB.
const maxPlain = 1 << 30

// seal packs and encrypts. The name is bound to it, so that no object can stand
// for another.
func (b box) seal(name string, plain []byte) ([]byte, error) {
	enc, err := packer()
	if err != nil {
		return nil, err
	}
	how, body := byte(asItIs), plain
	if packed := enc.EncodeAll(plain, nil); len(packed) < len(plain)*15/16 {
		how, body = byZstd, packed
	}
	out := make([]byte, headLen+b.aead.NonceSize(), headLen+b.aead.NonceSize()+len(body)+b.aead.Overhead())
	out[0], out[1] = format, how
	rand.Read(out[headLen:])
	return b.aead.Seal(out, out[headLen:], body, bound(out[:headLen], name)), nil
}

// open decrypts and unpacks.
func (b box) open(name string, sealed []byte) ([]byte, error) {
	n := headLen + b.aead.NonceSize()
	switch {
	case len(sealed) < n:
		return nil, fmt.Errorf("object %q is cut off", name)
	case sealed[0] != format:
		return nil, fmt.Errorf("object %q has format %d; this version of perigeed reads %d", name, sealed[0], format)
	}
	body, err := b.aead.Open(nil, sealed[headLen:n], sealed[n:], bound(sealed[:headLen], name))
	if err != nil {
		return nil, fmt.Errorf("object %q is damaged, or was sealed with another key than this cloud's: see snapshots.key in docs/formats.md", name)
	}
	switch sealed[1] {
	case asItIs:
		return body, nil
	case byZstd:
		dec, err := unpacker()
		if err != nil {
			return nil, err
		}
		return dec.DecodeAll(body, nil)
	}
	return nil, fmt.Errorf("object %q is packed in way %d, which this version of perigeed does not know", name, sealed[1])
}

func bound(head []byte, name string) []byte { return append(append([]byte{}, head...), name...) }

// chunkID is a chunk's keyed hash.
type chunkID [sha256.Size]byte

// namer gives chunks of one volume their names.
type namer struct{ pool sync.Pool }

func newNamer(master []byte, volume string) (*namer, error) {
	key, err := hkdf.Key(sha256.New, master, []byte(volume), "perigee snapshot chunk name", 32)
	if err != nil {
		return nil, err
	}
	return &namer{sync.Pool{New: func() any { return hmac.New(sha256.New, key) }}}, nil
}

func (n *namer) id(chunk []byte) (id chunkID) {
	h := n.pool.Get().(hash.Hash)
	defer n.pool.Put(h)
	h.Reset()
	h.Write(chunk)
	h.Sum(id[:0])
	return id
}

var errKey = errors.New("the key of snapshots must have 32 bytes")
