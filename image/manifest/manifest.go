// Package manifest reads the documents that describe images: OCI and Docker
// manifests, indexes and configurations. They come from outside, so every
// digest, size and count in them is checked before anyone acts on it.
//
// It fetches nothing. A media type that images may use is added to the tables
// in this file.
package manifest

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/perigee-run/perigee/image/blob"
)

// Limits of what is read.
const (
	MaxSize    = 4 << 20 // bytes of a manifest, index or configuration
	MaxLayers  = 512
	MaxEntries = 1024 // manifests of an index
)

// OCIManifest is the media type of the manifests that we write.
const OCIManifest = string(types.OCIManifestSchema1)

// OCILayer is the media type of an uncompressed layer.
const OCILayer = string(types.OCIUncompressedLayer)

// OCIConfig is the media type of an image's configuration.
const OCIConfig = string(types.OCIConfigJSON)

var manifestTypes = []string{OCIManifest, string(types.DockerManifestSchema2)}
var indexTypes = []string{string(types.OCIImageIndex), string(types.DockerManifestList)}
var configTypes = []string{OCIConfig, string(types.DockerConfigJSON)}
var layerTypes = []string{
	OCILayer, string(types.OCILayer), string(types.OCILayerZStd),
	string(types.OCIRestrictedLayer), string(types.OCIUncompressedRestrictedLayer),
	string(types.DockerLayer), string(types.DockerUncompressedLayer), string(types.DockerForeignLayer),
	"application/vnd.docker.image.rootfs.diff.tar.zstd",
}

// AcceptedTypes are the media types of manifests and indexes that we read.
func AcceptedTypes() []string { return slices.Concat(manifestTypes, indexTypes) }

// Descriptor points at content.
type Descriptor struct {
	MediaType    string            `json:"mediaType"`
	Digest       string            `json:"digest"`
	Size         int64             `json:"size"`
	Platform     *v1.Platform      `json:"platform,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	ArtifactType string            `json:"artifactType,omitempty"`
}

// Manifest is an image manifest or an index, told apart by IsIndex.
type Manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType,omitempty"`
	ArtifactType  string       `json:"artifactType,omitempty"`
	Config        *Descriptor  `json:"config,omitempty"`
	Layers        []Descriptor `json:"layers,omitempty"`
	Manifests     []Descriptor `json:"manifests,omitempty"`
}

// IsIndex tells whether m lists manifests rather than layers.
func (m Manifest) IsIndex() bool { return slices.Contains(indexTypes, m.MediaType) }

// Refers lists all that m points at in the same repository.
func (m Manifest) Refers() []Descriptor {
	all := slices.Concat(m.Manifests, m.Layers)
	if m.Config != nil {
		all = append(all, *m.Config)
	}
	return all
}

// Parse reads a manifest or index. mediaType is what it was delivered as; when
// it is empty or says nothing, the document's own word counts.
func Parse(content []byte, mediaType string) (Manifest, error) {
	var m Manifest
	if len(content) > MaxSize {
		return m, fmt.Errorf("the manifest is larger than %d bytes", MaxSize)
	}
	if err := json.Unmarshal(content, &m); err != nil {
		return m, fmt.Errorf("the manifest is not valid JSON: %w", err)
	}
	if err := m.settleType(mediaType); err != nil {
		return m, err
	}
	return m, m.check()
}

// settleType finds out what m is. A document that calls itself something else
// than it was delivered as could be read two ways, so it is refused.
func (m *Manifest) settleType(delivered string) error {
	delivered, _, _ = strings.Cut(delivered, ";")
	delivered = strings.TrimSpace(delivered)
	known := slices.Contains(AcceptedTypes(), delivered)
	switch {
	case m.SchemaVersion != 2:
		return fmt.Errorf("manifests of schema version %d are not supported; push the image again with a current client", m.SchemaVersion)
	case known && m.MediaType != "" && m.MediaType != delivered:
		return fmt.Errorf("the manifest calls itself %q but came as %q", m.MediaType, delivered)
	case known:
		m.MediaType = delivered
	case m.MediaType == "" && len(m.Manifests) > 0:
		m.MediaType = string(types.OCIImageIndex)
	case m.MediaType == "" && m.Config != nil:
		m.MediaType = OCIManifest
	}
	if !slices.Contains(AcceptedTypes(), m.MediaType) {
		return fmt.Errorf("media type %q is not one of an image", m.MediaType)
	}
	return nil
}

func (m Manifest) check() error {
	if len(m.Layers) > MaxLayers {
		return fmt.Errorf("the image has %d layers, at most %d are supported", len(m.Layers), MaxLayers)
	}
	if len(m.Manifests) > MaxEntries {
		return fmt.Errorf("the index has %d entries, at most %d are supported", len(m.Manifests), MaxEntries)
	}
	if m.IsIndex() && (m.Config != nil || len(m.Layers) > 0) || !m.IsIndex() && len(m.Manifests) > 0 {
		return errors.New("the manifest is an index and an image at once")
	}
	if !m.IsIndex() && m.Config == nil {
		return errors.New("the manifest has no configuration")
	}
	for _, d := range m.Refers() {
		if !blob.Valid(d.Digest) {
			return fmt.Errorf("the manifest refers to %q, which is not a sha256 digest", d.Digest)
		}
		if d.Size < 0 {
			return fmt.Errorf("the manifest gives %s a size of %d bytes", d.Digest, d.Size)
		}
	}
	return nil
}

// CheckImage says why m is not an image that can run, if it is not: registries
// hold charts, signatures and other artifacts under the same kind of manifest.
func (m Manifest) CheckImage() error {
	if !slices.Contains(configTypes, m.Config.MediaType) {
		what := m.ArtifactType
		if what == "" {
			what = m.Config.MediaType
		}
		return fmt.Errorf("it is not a container image but an artifact of type %q", what)
	}
	for _, l := range m.Layers {
		if !slices.Contains(layerTypes, l.MediaType) {
			return fmt.Errorf("layer %s has media type %q, which is not one of a container image", l.Digest, l.MediaType)
		}
	}
	return nil
}

// Pick chooses the entry of an index for Linux on arch. Among variants the
// plainest wins, because every processor of the architecture runs it.
func (m Manifest) Pick(arch string) (Descriptor, error) {
	best, rank := Descriptor{}, -1
	var offered []string
	for _, d := range m.Manifests {
		p := d.Platform
		if p == nil || p.OS == "unknown" { // attestations have unknown/unknown
			continue
		}
		offered = append(offered, p.String())
		if r := suits(p, arch); r > rank {
			best, rank = d, r
		}
	}
	if rank >= 0 {
		return best, nil
	}
	if len(offered) == 0 && len(m.Manifests) == 1 && m.Manifests[0].Platform == nil {
		return m.Manifests[0], nil // an index around one image, as layouts have it
	}
	if len(offered) == 0 {
		return best, errors.New("the index names no platform")
	}
	return best, fmt.Errorf("there is no image for linux/%s; it is offered for %s", arch, strings.Join(offered, ", "))
}

// suits ranks a platform for arch, -1 is no.
func suits(p *v1.Platform, arch string) int {
	if p.OS != "linux" || p.Architecture != arch {
		return -1
	}
	plain := map[string][]string{"arm64": {"v8"}, "amd64": {"v1"}, "arm": {"v6", "v7"}}[arch]
	switch {
	case p.Variant == "":
		return 100
	case slices.Contains(plain, p.Variant):
		return 90 + slices.Index(plain, p.Variant)
	case arch == "amd64": // v2 to v4 need processors that may not be there
		return 4 - int(p.Variant[len(p.Variant)-1]-'0')%5
	}
	return 1
}

// ParseConfig reads an image's configuration and checks that it belongs to m
// and to Linux on arch.
func (m Manifest) ParseConfig(content []byte, arch string) (*v1.ConfigFile, error) {
	var c v1.ConfigFile
	if err := json.Unmarshal(content, &c); err != nil {
		return nil, fmt.Errorf("the image's configuration is not valid JSON: %w", err)
	}
	if c.OS != "" && c.OS != "linux" || c.Architecture != "" && c.Architecture != arch {
		return nil, fmt.Errorf("there is no image for linux/%s; it is offered for %s/%s", arch, c.OS, c.Architecture)
	}
	if len(c.RootFS.DiffIDs) != len(m.Layers) {
		return nil, fmt.Errorf("the image's configuration names %d layers, its manifest %d", len(c.RootFS.DiffIDs), len(m.Layers))
	}
	for _, d := range c.RootFS.DiffIDs {
		if !blob.Valid(d.String()) {
			return nil, fmt.Errorf("the image's configuration names the layer %q, which is not a sha256 digest", d)
		}
	}
	return &c, nil
}
