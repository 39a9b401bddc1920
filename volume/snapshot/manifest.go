package snapshot

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// ChunkSize is how large the pieces of an image are.
const ChunkSize = 1 << 20

// Manifest is one snapshot: what it is of, and where its pieces are.
type Manifest struct {
	ID     string `json:"id"`
	Volume string `json:"volume"`
	Name   string `json:"name"` // of the volume
	App    string `json:"app"`
	Org    string `json:"org"`
	SizeGB int    `json:"size_gb"`
	// Key is the volume's own, with which the files in the image are encrypted.
	Key       []byte    `json:"key"`
	CreatedAt time.Time `json:"created_at"`

	// ImageSize is the length of the image in bytes.
	ImageSize int64 `json:"image_size"`
	// At are the places of the chunks that are not zero, in units of ChunkSize,
	// rising; IDs are their names, 32 bytes each, in the same order.
	At  []uint32 `json:"at"`
	IDs []byte   `json:"ids"`
}

// Size is how many bytes of the image hold something.
func (m *Manifest) Size() int64 { return int64(len(m.At)) * ChunkSize }

// Digest is the hash of what is in the image.
func (m *Manifest) Digest() string {
	h := sha256.New()
	fmt.Fprintln(h, m.ImageSize, m.At)
	h.Write(m.IDs)
	return hex.EncodeToString(h.Sum(nil))
}

func (m *Manifest) id(i int) (id chunkID) {
	copy(id[:], m.IDs[i*len(id):])
	return id
}

// maxImage bounds an image, so that a damaged manifest cannot ask for more.
const maxImage = 1 << 46

// parseManifest reads what was sealed, and checks that it can be followed.
func parseManifest(b []byte) (*Manifest, error) {
	m := new(Manifest)
	if err := json.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("cannot read a snapshot's manifest: %w", err)
	}
	switch {
	case m.ImageSize <= 0 || m.ImageSize > maxImage:
		return nil, fmt.Errorf("a snapshot's manifest tells of an image of %d bytes", m.ImageSize)
	case len(m.IDs) != len(m.At)*len(chunkID{}):
		return nil, errors.New("a snapshot's manifest has not as many names as places")
	}
	last := int64(-1)
	for _, at := range m.At {
		if int64(at) <= last || int64(at)*ChunkSize >= m.ImageSize {
			return nil, fmt.Errorf("a snapshot's manifest has a chunk at %d after %d", at, last)
		}
		last = int64(at)
	}
	return m, nil
}

// Names of objects. A manifest's tells the volume too, so that a listing is enough
// to know what there is.
const manifests = "snapshots/"

func manifestName(volume, id string) string { return manifests + id + "." + volume }

func splitManifestName(name string) (volume, id string, ok bool) {
	id, volume, ok = strings.Cut(strings.TrimPrefix(name, manifests), ".")
	return volume, id, ok
}

func chunks(volume string) string { return "chunks/" + volume + "/" }

// chunkOf is the chunk that an object's name is of.
func chunkOf(name string) (id chunkID, ok bool) {
	n, err := hex.Decode(id[:], []byte(name[max(strings.LastIndexByte(name, '/')+1, len(name)-2*len(id)):]))
	return id, err == nil && n == len(id)
}

func chunkName(volume string, id chunkID) string {
	h := hex.EncodeToString(id[:])
	return chunks(volume) + h[:2] + "/" + h
}
