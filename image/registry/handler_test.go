package registry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/perigee-run/perigee/image/blob"
	"github.com/perigee-run/perigee/image/manifest"
	"github.com/perigee-run/perigee/image/registry"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// client talks to a handler without a network.
type client struct {
	t   *testing.T
	h   http.Handler
	tmp string
}

func start(t *testing.T, change ...func(*registry.Config)) client {
	t.Helper()
	tmp := t.TempDir()
	blobs, err := blob.Open(filepath.Join(t.TempDir(), "blobs"), tmp)
	if err != nil {
		t.Fatal(err)
	}
	repos, err := registry.OpenRepos(filepath.Join(t.TempDir(), "repos"), blobs)
	if err != nil {
		t.Fatal(err)
	}
	cfg := registry.Config{Repos: repos, Blobs: blobs}
	for _, c := range change {
		c(&cfg)
	}
	return client{t, registry.New(cfg), tmp}
}

func (c client) do(method, path, body string, headers ...string) *http.Response {
	c.t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	c.h.ServeHTTP(w, r)
	return w.Result()
}

// want makes a request and checks its status and, for errors, its code.
func (c client) want(status int, code, method, path, body string, headers ...string) *http.Response {
	c.t.Helper()
	resp := c.do(method, path, body, headers...)
	content, _ := io.ReadAll(resp.Body)
	resp.Body = io.NopCloser(bytes.NewReader(content))
	if resp.StatusCode != status || !strings.Contains(string(content), code) {
		c.t.Errorf("%s %s: got %s %s, want %d %s", method, path, resp.Status, content, status, code)
	}
	return resp
}

func (c client) pushBlob(repo, content string) string {
	c.t.Helper()
	digest := blob.Of([]byte(content))
	c.want(201, "", "POST", "/v2/"+repo+"/blobs/uploads/?digest="+digest, content)
	return digest
}

func manifestOf(config, layer string, configSize, layerSize int) string {
	return fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"digest":%q,"size":%d},"layers":[{"mediaType":%q,"digest":%q,"size":%d}]}`,
		manifest.OCIManifest, manifest.OCIConfig, config, configSize, manifest.OCILayer, layer, layerSize)
}

func (c client) leavesNothing() {
	c.t.Helper()
	if left, err := os.ReadDir(c.tmp); err != nil || len(left) > 0 {
		c.t.Errorf("left in tmp: %v, %v", left, err)
	}
}

func TestChunkedUpload(t *testing.T) {
	c := start(t)
	at := c.want(202, "", "POST", "/v2/team/app/blobs/uploads/", "").Header.Get("Location")
	if got := c.want(202, "", "PATCH", at, "hello ", "Content-Range", "0-5").Header.Get("Range"); got != "0-5" {
		t.Errorf("Range is %q", got)
	}
	c.want(416, "BLOB_UPLOAD_INVALID", "PATCH", at, "again", "Content-Range", "0-4")
	if got := c.want(204, "", "GET", at, "").Header.Get("Range"); got != "0-5" {
		t.Errorf("Range is %q", got)
	}
	c.want(404, "BLOB_UPLOAD_UNKNOWN", "PATCH", strings.Replace(at, "team/app", "other", 1), "x")
	digest := blob.Of([]byte("hello world"))
	c.want(201, "", "PUT", at+"?digest="+digest, "world")
	c.want(404, "BLOB_UPLOAD_UNKNOWN", "PATCH", at, "x")
	if body, _ := io.ReadAll(c.want(200, "", "GET", "/v2/team/app/blobs/"+digest, "").Body); string(body) != "hello world" {
		t.Errorf("got %q", body)
	}
	if body, _ := io.ReadAll(c.want(206, "", "GET", "/v2/team/app/blobs/"+digest, "", "Range", "bytes=6-").Body); string(body) != "world" {
		t.Errorf("got %q", body)
	}
	c.want(202, "", "DELETE", "/v2/team/app/blobs/"+digest, "")
	c.want(404, "BLOB_UNKNOWN", "HEAD", "/v2/team/app/blobs/"+digest, "")
	c.leavesNothing()
}

func TestUploadRefuses(t *testing.T) {
	c := start(t, func(cfg *registry.Config) { cfg.MaxBlob = 10 })
	other := blob.Of([]byte("other"))
	c.want(400, "DIGEST_INVALID", "POST", "/v2/app/blobs/uploads/?digest="+other, "hello")
	c.want(400, "DIGEST_INVALID", "POST", "/v2/app/blobs/uploads/?digest=sha256:../../x", "hello")
	c.want(413, "SIZE_INVALID", "POST", "/v2/app/blobs/uploads/?digest="+other, "hello, hello")
	c.want(400, "NAME_INVALID", "POST", "/v2/App/../x/blobs/uploads/", "")
	at := c.want(202, "", "POST", "/v2/app/blobs/uploads/", "").Header.Get("Location")
	c.want(204, "", "DELETE", at, "")
	c.want(404, "BLOB_UPLOAD_UNKNOWN", "GET", at, "")
	c.leavesNothing()

	full := start(t, func(cfg *registry.Config) {
		cfg.Space = func(context.Context, int64) error { return errors.New("disk is full") }
	})
	full.want(507, "disk is full", "POST", "/v2/app/blobs/uploads/?digest="+other, "other")
	full.leavesNothing()
}

func TestUploadsAreLimited(t *testing.T) {
	c := start(t)
	for range 256 {
		c.want(202, "", "POST", "/v2/app/blobs/uploads/", "")
	}
	c.want(429, "TOOMANYREQUESTS", "POST", "/v2/app/blobs/uploads/", "")
}

func TestManifests(t *testing.T) {
	var told []string
	c := start(t, func(cfg *registry.Config) {
		cfg.OnPush = func(repo, tag, digest string) { told = append(told, repo+":"+tag+"@"+digest) }
	})
	config, layer := blob.Of([]byte("{}")), blob.Of([]byte("layer"))
	m := manifestOf(config, layer, 2, 5)
	digest := blob.Of([]byte(m))
	kind := []string{"Content-Type", manifest.OCIManifest}
	c.want(400, "MANIFEST_BLOB_UNKNOWN", "PUT", "/v2/app/manifests/v1", m, kind...)
	c.pushBlob("app", "{}")
	c.pushBlob("app", "layer")
	c.want(400, "MANIFEST_INVALID", "PUT", "/v2/app/manifests/v1", "{", kind...)
	c.want(400, "MANIFEST_INVALID", "PUT", "/v2/app/manifests/v1", `{"schemaVersion":1}`)
	c.want(413, "MANIFEST_INVALID", "PUT", "/v2/app/manifests/v1", strings.Repeat(" ", manifest.MaxSize+1))
	c.want(400, "TAG_INVALID", "PUT", "/v2/app/manifests/-v1", m, kind...)
	c.want(400, "DIGEST_INVALID", "PUT", "/v2/app/manifests/"+layer, m, kind...)
	c.want(400, "has 5 bytes, the manifest says 6", "PUT", "/v2/app/manifests/v1", manifestOf(config, layer, 2, 6), kind...)
	c.want(201, "", "PUT", "/v2/app/manifests/v1", m, kind...)
	c.want(201, "", "PUT", "/v2/app/manifests/v2", m, kind...)
	for _, ref := range []string{"v1", "v2", digest} {
		resp := c.want(200, "", "GET", "/v2/app/manifests/"+ref, "")
		if body, _ := io.ReadAll(resp.Body); string(body) != m || resp.Header.Get("Content-Type") != manifest.OCIManifest || resp.Header.Get("Docker-Content-Digest") != digest {
			t.Errorf("%s: %v %s", ref, resp.Header, body)
		}
	}
	if len(told) != 2 || told[1] != "app:v2@"+digest {
		t.Errorf("OnPush was told %v", told)
	}
	c.want(202, "", "DELETE", "/v2/app/manifests/v1", "")
	c.want(404, "it has the tags v2", "GET", "/v2/app/manifests/v1", "")
	c.want(202, "", "DELETE", "/v2/app/manifests/"+digest, "")
	c.want(404, "MANIFEST_UNKNOWN", "GET", "/v2/app/manifests/v2", "")
}

func TestIndexNeedsItsManifests(t *testing.T) {
	c := start(t)
	config := c.pushBlob("app", "{}")
	layer := c.pushBlob("app", "layer")
	m := manifestOf(config, layer, 2, 5)
	index := fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":%q,"digest":%q,"size":%d}]}`,
		manifest.OCIManifest, blob.Of([]byte(m)), len(m))
	c.want(400, "MANIFEST_BLOB_UNKNOWN", "PUT", "/v2/app/manifests/v1", index)
	c.want(201, "", "PUT", "/v2/app/manifests/"+blob.Of([]byte(m)), m)
	c.want(201, "", "PUT", "/v2/app/manifests/v1", index)
}

func TestMountNeedsTheSource(t *testing.T) {
	c := start(t, func(cfg *registry.Config) {
		cfg.Auth = func(r *http.Request) error {
			if strings.Contains(r.URL.Path, "/private/") && r.Method == http.MethodGet {
				return registry.ErrDenied
			}
			return nil
		}
	})
	digest := c.pushBlob("private", "secret")
	c.pushBlob("public", "open")
	c.want(202, "", "POST", "/v2/mine/blobs/uploads/?mount="+digest+"&from=private", "")
	c.want(404, "BLOB_UNKNOWN", "GET", "/v2/mine/blobs/"+digest, "")
	c.want(202, "", "POST", "/v2/mine/blobs/uploads/?mount="+digest+"&from=../private", "")
	c.want(202, "", "POST", "/v2/mine/blobs/uploads/?mount="+digest, "")
	c.want(201, "", "POST", "/v2/mine/blobs/uploads/?mount="+blob.Of([]byte("open"))+"&from=public", "")
	c.want(200, "open", "GET", "/v2/mine/blobs/"+blob.Of([]byte("open")), "")
}

func TestListsArePaged(t *testing.T) {
	c := start(t)
	config := c.pushBlob("a/b", "{}")
	layer := c.pushBlob("a/b", "layer")
	for _, tag := range []string{"v3", "v1", "v2"} {
		c.want(201, "", "PUT", "/v2/a/b/manifests/"+tag, manifestOf(config, layer, 2, 5))
	}
	var got struct{ Tags, Repositories []string }
	resp := c.want(200, "", "GET", "/v2/a/b/tags/list?n=2", "")
	if err := json.NewDecoder(resp.Body).Decode(&got); err != nil || fmt.Sprint(got.Tags) != "[v1 v2]" {
		t.Errorf("got %v, %v", got.Tags, err)
	}
	if link := resp.Header.Get("Link"); link != `</v2/a/b/tags/list?last=v2&n=2>; rel="next"` {
		t.Errorf("Link is %s", link)
	}
	resp = c.want(200, "", "GET", "/v2/a/b/tags/list?n=2&last=v2", "")
	if err := json.NewDecoder(resp.Body).Decode(&got); err != nil || fmt.Sprint(got.Tags) != "[v3]" || resp.Header.Get("Link") != "" {
		t.Errorf("got %v, %v", got.Tags, err)
	}
	c.want(400, "PAGINATION_NUMBER_INVALID", "GET", "/v2/a/b/tags/list?n=-1", "")
	c.want(404, "NAME_UNKNOWN", "GET", "/v2/none/tags/list", "")
	c.want(200, `"repositories":["a/b"]`, "GET", "/v2/_catalog", "")
}

func TestPathsThatAreNothing(t *testing.T) {
	c := start(t)
	c.want(200, "{}", "GET", "/v2/", "")
	for path, status := range map[string]int{
		"/v2/app": 404, "/v1/": 404, "/v2/app/blobs/": 400, "/v2/app/manifests/": 400, "/v2/../etc/manifests/v1": 400,
		"/v2/app/blobs/sha256:zz": 400, "/v2/app/tags/other": 405, "/v2//manifests/v1": 400, "/v2/_blobs/manifests/v1": 400,
	} {
		c.want(status, "", "GET", path, "")
	}
	c.want(405, "UNSUPPORTED", "POST", "/v2/app/manifests/v1", "")
	c.want(405, "UNSUPPORTED", "GET", "/v2/app/blobs/uploads/", "")
}

// FuzzPath: no path or body makes the handler fall over or write outside.
func FuzzPath(f *testing.F) {
	f.Add("PUT", "/v2/app/manifests/v1", manifestOf(blob.Of(nil), blob.Of(nil), 0, 0))
	f.Add("POST", "/v2/a/b/blobs/uploads/?mount=sha256:"+strings.Repeat("a", 64)+"&from=x", "")
	f.Add("GET", "/v2/a/blobs/uploads/../../x", "")
	f.Fuzz(func(t *testing.T, method, path, body string) {
		r, err := http.NewRequest(method, path, strings.NewReader(body))
		if err != nil {
			return
		}
		outer := t.TempDir()
		blobs, err := blob.Open(filepath.Join(outer, "store", "blobs"), outer)
		if err != nil {
			t.Fatal(err)
		}
		repos, err := registry.OpenRepos(filepath.Join(outer, "store", "repos"), blobs)
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		registry.New(registry.Config{Repos: repos, Blobs: blobs}).ServeHTTP(w, r)
		entries, _ := os.ReadDir(outer)
		for _, e := range entries {
			if e.Name() != "store" && !strings.HasPrefix(e.Name(), "blob-") {
				t.Errorf("%s %q made %s", method, path, e.Name())
			}
		}
	})
}
