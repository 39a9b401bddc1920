//go:build linux

package build

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

const testUser, testSecret = "perigee", "s3cret"

// privateRegistry serves a real registry over plain HTTP behind basic authentication, with one image in it.
func privateRegistry(t *testing.T) (host string) {
	t.Helper()
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, secret, _ := r.BasicAuth(); user != testUser || secret != testSecret {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	host = strings.TrimPrefix(srv.URL, "http://")
	ref, err := name.ParseReference(host+"/team/base:1", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, baseImage(t), remote.WithAuth(&authn.Basic{Username: testUser, Password: testSecret})); err != nil {
		t.Fatal(err)
	}
	return host
}

func baseImage(t *testing.T) v1.Image {
	t.Helper()
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	if err := w.WriteHeader(&tar.Header{Name: "base", Mode: 0o644, Size: 4}); err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, "base")
	w.Close()
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, l)
	if err == nil {
		var conf *v1.ConfigFile
		if conf, err = img.ConfigFile(); err == nil {
			conf = conf.DeepCopy()
			conf.OS, conf.Architecture, conf.Config.Labels = "linux", runtime.GOARCH, map[string]string{"from": "base"}
			img, err = mutate.ConfigFile(img, conf)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestBaseImageFromPrivateRegistry(t *testing.T) {
	c := testConfig(t)
	host := privateRegistry(t)
	var asked []string
	known := true
	c.PlainHTTP = []string{host}
	c.Auth = func(h string) (string, string) {
		asked = append(asked, h)
		if known {
			return testUser, testSecret
		}
		return "", ""
	}
	e := newEngine(t, c)
	dir := project(t, map[string]string{"Dockerfile": "FROM " + host + "/team/base:1\nCOPY own /own\n", "own": "own"})

	known = false
	_, _, _, err := build(t, e, Request{ContextDir: dir})
	var refused *Error
	if !errors.As(err, &refused) || refused.Line != 1 || !strings.Contains(refused.Message, "does not let us in") {
		t.Errorf("without credentials: %v", err)
	}

	known = true
	res, files, _ := mustBuild(t, e, Request{ContextDir: dir})
	if conf := files["blobs/sha256/"+strings.TrimPrefix(res.ConfigDigest, "sha256:")]; files["/own"] != "own" || !strings.Contains(conf, `"from":"base"`) {
		t.Errorf("files %v, configuration %s", keys(files), conf)
	}
	if len(asked) == 0 || asked[0] != host {
		t.Errorf("credentials were asked for %v, want %s", asked, host)
	}

	write(t, filepath.Join(dir, "Dockerfile"), "FROM "+host+"/team/base:2\n")
	if _, _, _, err = build(t, e, Request{ContextDir: dir}); err == nil || !strings.Contains(err.Error(), "not in its registry") {
		t.Errorf("missing tag: %v", err)
	}
}

func TestDockerConfigIsHonoured(t *testing.T) {
	c := testConfig(t)
	host := privateRegistry(t)
	write(t, filepath.Join(c.DockerConfig, "config.json"), `{"auths":{"`+host+`":{"auth":"cGVyaWdlZTpzM2NyZXQ="}}}`)
	e := newEngine(t, c)
	dir := project(t, map[string]string{"Dockerfile": "FROM " + host + "/team/base:1\n"})
	if _, err := e.Build(context.Background(), Request{ContextDir: dir}, nil); err != nil {
		t.Error(err)
	}
}
