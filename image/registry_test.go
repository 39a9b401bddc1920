package image_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/perigee-run/perigee/image"
	"github.com/perigee-run/perigee/image/registry"
)

// serve starts a store's registry and returns its host.
func serve(t testing.TB, s *image.Store) string {
	t.Helper()
	srv := httptest.NewServer(s.Registry(nil))
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://")
}

func TestPushThenPullWithoutNetwork(t *testing.T) {
	pushed := make(chan string, 2)
	cfg := image.Config{Dir: t.TempDir(), MinFree: 1, Hosts: []string{"registry.test", "10.255.255.1:9"},
		OnPush: func(ref, digest string) { pushed <- ref + "@" + digest }}
	s := reopen(t, cfg)
	img := simple(t, "x")
	host := serve(t, s)
	push(t, host+"/team/app:v1", img)
	if got, want := <-pushed, "registry.test/team/app:v1@"+digestOf(t, img); got != want {
		t.Errorf("OnPush was told %s, want %s", got, want)
	}
	s = reopen(t, cfg) // what was acknowledged is durable
	for _, ref := range []string{"10.255.255.1:9/team/app:v1", "registry.test/team/app@" + digestOf(t, img)} {
		if got := pull(t, s, ref); got.Digest != digestOf(t, img) {
			t.Errorf("%s: %+v", ref, got)
		}
	}
	_, err := s.Pull(context.Background(), "registry.test/team/app:v2", nil)
	wantError(t, err, "has no v2", "v1")
}

// What people push with: each tool pushes an image made here, with a token, and
// the node makes it ready.
func TestToolsPush(t *testing.T) {
	for n, push := range map[string]func(t *testing.T, program, layout, ref string){
		"skopeo": func(t *testing.T, program, layout, ref string) {
			run(t, program, "--insecure-policy", "copy", "--dest-tls-verify=false", "--dest-creds", "x:token", "oci:"+layout+":v1", "docker://"+ref)
		},
		"skopeo in docker's format": func(t *testing.T, program, layout, ref string) {
			run(t, program, "--insecure-policy", "copy", "--format", "v2s2", "--dest-tls-verify=false", "--dest-creds", "x:token", "oci:"+layout+":v1", "docker://"+ref)
		},
		"buildah": func(t *testing.T, program, layout, ref string) {
			own := []string{"--root", t.TempDir(), "--runroot", t.TempDir(), "--storage-driver", "vfs"}
			saved := filepath.Join(layout, "saved.tar")
			if err := os.WriteFile(saved, dockerSave(t, map[string]v1.Image{"app:v1": simple(t, "buildah")}), 0o600); err != nil {
				t.Fatal(err)
			}
			id := run(t, program, append(own, "pull", "-q", "--signature-policy", policy(t), "docker-archive:"+saved)...)
			run(t, program, append(own, "push", "--signature-policy", policy(t), "--tls-verify=false", "--creds", "x:token", id, "docker://"+ref)...)
		},
	} {
		t.Run(n, func(t *testing.T) {
			program, err := exec.LookPath(strings.Fields(n)[0])
			if err != nil {
				t.Skipf("needs %s", strings.Fields(n)[0])
			}
			s := open(t)
			srv := httptest.NewServer(s.Registry(needToken))
			defer srv.Close()
			push(t, program, ociLayoutTagged(t, simple(t, n), "v1"), strings.TrimPrefix(srv.URL, "http://")+"/app:v1")
			pull(t, s, "registry.test/app:v1")
		})
	}
}

func policy(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "policy.json")
	if err := os.WriteFile(path, []byte(`{"default":[{"type":"insecureAcceptAnything"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func run(t *testing.T, program string, args ...string) string {
	t.Helper()
	if os.Getuid() != 0 && strings.HasSuffix(program, "buildah") {
		t.Skip("buildah needs root here")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s%s", program, args, err, out, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

func basic(password string) authn.Authenticator {
	return &authn.Basic{Username: "x", Password: password}
}

// ociLayoutTagged writes a layout whose image tools find under a tag.
func ociLayoutTagged(t *testing.T, img v1.Image, tag string) string {
	t.Helper()
	return ociLayout(t, img, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": tag}))
}

func needToken(r *http.Request) error {
	if _, p, _ := r.BasicAuth(); p != "token" {
		return errors.New("give the API token as password")
	}
	if strings.Contains(r.URL.Path, "/forbidden/") {
		return registry.ErrDenied
	}
	return nil
}

func TestRegistryAsksForTheToken(t *testing.T) {
	srv := httptest.NewServer(open(t).Registry(needToken))
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	for user, c := range map[string]struct {
		repo   string
		status string
	}{"token": {"/app:v1", ""}, "wrong": {"/app:v1", "401"}, "token ": {"/forbidden/app:v1", "403"}} {
		ref, err := name.ParseReference(host + c.repo)
		if err != nil {
			t.Fatal(err)
		}
		err = remote.Write(ref, simple(t, "x"), remote.WithAuth(basic(strings.TrimSpace(user))))
		if c.status == "" && err != nil {
			t.Errorf("%s: %v", user, err)
		} else if c.status != "" {
			wantError(t, err, c.status)
		}
	}
}

func TestImagesStayInTheirRepository(t *testing.T) {
	s := open(t)
	host := serve(t, s)
	img := simple(t, "secret")
	push(t, host+"/theirs:v1", img)
	resp, err := http.Get("http://" + host + "/v2/mine/blobs/sha256:" + layerHex(t, img))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound {
		t.Errorf("another repository's layer: %s", resp.Status)
	}
	if _, err := s.Pull(context.Background(), "registry.test/mine:v1", nil); err == nil {
		t.Error("another repository's tag was pulled")
	}
}
