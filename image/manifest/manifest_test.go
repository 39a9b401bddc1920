package manifest_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/perigee-run/perigee/image/manifest"
)

var hex = strings.Repeat("ab", 32)

func image(config, layer string) string {
	return fmt.Sprintf(`{"schemaVersion":2,"config":{"mediaType":%q,"digest":"sha256:%s","size":2},"layers":[{"mediaType":%q,"digest":"sha256:%s","size":3}]}`,
		config, hex, layer, hex)
}

func index(platforms ...string) string {
	var all []string
	for i, p := range platforms {
		os, rest, _ := strings.Cut(p, "/")
		arch, variant, _ := strings.Cut(rest, "/")
		all = append(all, fmt.Sprintf(`{"mediaType":%q,"digest":"sha256:%064x","size":1,"platform":{"os":%q,"architecture":%q,"variant":%q}}`,
			manifest.OCIManifest, i, os, arch, variant))
	}
	return `{"schemaVersion":2,"manifests":[` + strings.Join(all, ",") + `]}`
}

func TestParseTakesImagesAndIndexes(t *testing.T) {
	m, err := manifest.Parse([]byte(image(manifest.OCIConfig, manifest.OCILayer)), "")
	if err != nil || m.IsIndex() || m.CheckImage() != nil || len(m.Refers()) != 2 {
		t.Errorf("image: %+v, %v", m, err)
	}
	m, err = manifest.Parse([]byte(index("linux/amd64")), "application/vnd.oci.image.index.v1+json; charset=utf-8")
	if err != nil || !m.IsIndex() {
		t.Errorf("index: %+v, %v", m, err)
	}
}

func TestParseRefuses(t *testing.T) {
	layer := fmt.Sprintf(`{"mediaType":%q,"digest":"sha256:%s","size":3}`, manifest.OCILayer, hex)
	config := fmt.Sprintf(`"config":{"mediaType":%q,"digest":"sha256:%s","size":2}`, manifest.OCIConfig, hex)
	for name, c := range map[string]struct{ content, mediaType, want string }{
		"not JSON":      {"<html>", "", "not valid JSON"},
		"schema 1":      {`{"schemaVersion":1}`, "", "schema version 1"},
		"other type":    {`{"schemaVersion":2,"mediaType":"text/plain"}`, "", "not one of an image"},
		"two types":     {`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json"}`, manifest.OCIManifest, "calls itself"},
		"both at once":  {`{"schemaVersion":2,` + config + `,"manifests":[` + layer + `]}`, "", "at once"},
		"no config":     {`{"schemaVersion":2,"layers":[` + layer + `]}`, manifest.OCIManifest, "no configuration"},
		"bad digest":    {strings.Replace(image(manifest.OCIConfig, manifest.OCILayer), hex, "../../etc", 1), "", "not a sha256 digest"},
		"negative size": {strings.Replace(image(manifest.OCIConfig, manifest.OCILayer), `"size":3`, `"size":-3`, 1), "", "size of -3"},
		"many layers":   {`{"schemaVersion":2,` + config + `,"layers":[` + strings.Repeat(layer+",", 512) + layer + `]}`, "", "513 layers"},
		"many entries":  {index(make([]string, 1025)...), "", "1025 entries"},
		"too large":     {strings.Repeat(" ", manifest.MaxSize+1), "", "larger than"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := manifest.Parse([]byte(c.content), c.mediaType); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}

func TestCheckImageNamesArtifacts(t *testing.T) {
	for _, c := range []struct{ config, layer, want string }{
		{"application/vnd.cncf.helm.config.v1+json", manifest.OCILayer, "helm"},
		{manifest.OCIConfig, "application/vnd.in-toto+json", "in-toto"},
	} {
		m, err := manifest.Parse([]byte(image(c.config, c.layer)), "")
		if err != nil {
			t.Fatal(err)
		}
		if err := m.CheckImage(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want an error with %q", err, c.want)
		}
	}
}

func TestPick(t *testing.T) {
	for _, c := range []struct {
		offered []string
		arch    string
		pick    int
		want    string
	}{
		{[]string{"linux/arm64", "linux/amd64"}, "amd64", 1, ""},
		{[]string{"linux/amd64/v3", "linux/amd64"}, "amd64", 1, ""},
		{[]string{"linux/amd64/v3", "linux/amd64/v2"}, "amd64", 1, ""},
		{[]string{"linux/arm64/v8", "unknown/unknown"}, "arm64", 0, ""},
		{[]string{"windows/amd64", "linux/arm64/v8"}, "amd64", 0, "offered for windows/amd64, linux/arm64/v8"},
		{[]string{"unknown/unknown"}, "amd64", 0, "names no platform"},
	} {
		m, err := manifest.Parse([]byte(index(c.offered...)), string(types.OCIImageIndex))
		if err != nil {
			t.Fatal(err)
		}
		d, err := m.Pick(c.arch)
		if c.want != "" {
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v: got %v, want an error with %q", c.offered, err, c.want)
			}
			continue
		}
		if err != nil || d.Digest != m.Manifests[c.pick].Digest {
			t.Errorf("%v for %s: got %s, %v", c.offered, c.arch, d.Platform, err)
		}
	}
}

func TestParseConfig(t *testing.T) {
	m, err := manifest.Parse([]byte(image(manifest.OCIConfig, manifest.OCILayer)), "")
	if err != nil {
		t.Fatal(err)
	}
	for content, want := range map[string]string{
		`{"os":"linux","architecture":"amd64","rootfs":{"diff_ids":["sha256:` + hex + `"]}}`: "",
		`{"rootfs":{"diff_ids":["sha256:` + hex + `"]}}`:                                     "",
		`{"os":"linux","architecture":"s390x"}`:                                              "offered for linux/s390x",
		`{"os":"windows","architecture":"amd64"}`:                                            "offered for windows/amd64",
		`{}`: "names 0 layers",
		`[]`: "not valid JSON",
	} {
		_, err := m.ParseConfig([]byte(content), "amd64")
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: got %v, want %q", content, err, want)
		}
	}
}

// FuzzManifest: what is accepted keeps every limit and can be picked from.
func FuzzManifest(f *testing.F) {
	f.Add([]byte(image(manifest.OCIConfig, manifest.OCILayer)), "")
	f.Add([]byte(index("linux/amd64/v2", "linux/arm64")), string(types.OCIImageIndex))
	f.Fuzz(func(t *testing.T, content []byte, mediaType string) {
		m, err := manifest.Parse(content, mediaType)
		if err != nil {
			return
		}
		if m.IsIndex() {
			_, _ = m.Pick("amd64")
			return
		}
		if m.CheckImage() == nil {
			_, _ = m.ParseConfig(content, "amd64")
		}
		if len(m.Layers) > manifest.MaxLayers {
			t.Errorf("%d layers", len(m.Layers))
		}
	})
}
