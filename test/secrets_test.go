package test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/perigee-run/perigee/api"
)

// TestSecretsStaySecret sets a secret that is easy to find, does what makes a node
// talk, and looks for it in the data directory, in answers, in logs and in the
// command lines of all processes.
func TestSecretsStaySecret(t *testing.T) {
	n := Start(t, "--log-level", "debug")
	canary := "c4n4ry-" + hex.EncodeToString([]byte(t.TempDir()))[:24]
	n.deploy(appWithChecks(t, "shop", ""), "--image", App(t))
	n.Must("secrets", "set", "CANARY="+canary, "--app", "shop")
	if _, b := get(t, n.Visitor(), "http://shop.apps.localhost/env?name=CANARY"); b != canary {
		t.Fatalf("the app has %q", b)
	}
	m := n.machine("shop")
	n.Must("exec", "--app", "shop", "--", "/testapp", "exit", "0")
	n.Must("machine", "suspend", m.ID, "--app", "shop")
	n.Must("machine", "start", m.ID, "--app", "shop")
	value := canary
	if _, err := n.Client.SetSecrets(t.Context(), "shop", map[string]*string{"bad name": &value}); err == nil || strings.Contains(err.Error(), canary) {
		t.Errorf("a wrong name: %v", err)
	}
	if _, errs, code := n.Perigee("secrets", "set", canary, "--app", "shop"); code != 2 || strings.Contains(errs, canary) {
		t.Errorf("a value without a name: %d %s", code, errs)
	}
	answers := n.answers(t, m)
	n.Kill() // what a crash leaves is looked at too
	n.Run()
	found := finder{[][]byte{[]byte(canary), []byte(base64.StdEncoding.EncodeToString([]byte(canary)))[:16], []byte(hex.EncodeToString([]byte(canary)))}}
	for what, b := range answers {
		found.look(t, what, b)
	}
	found.look(t, "the daemon's log", []byte(n.Log()))
	found.processes(t)
	found.files(t, n.Data(), func(path string) bool {
		// docs/guarantees.md: the supervisor needs the environment of what it runs, and
		// a snapshot is the machine's memory. Both are root's alone.
		return strings.HasPrefix(path, "sandbox/") || strings.HasPrefix(path, "machines/")
	})
	n.stagedRemoval(t)
	for _, dir := range []string{"sandbox", "machines"} {
		if fi, err := os.Stat(filepath.Join(n.Data(), dir)); err != nil || fi.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v, %v", dir, fi.Mode(), err)
		}
	}
}

// stagedRemoval: what is unset and not deployed yet shows in the list; where nothing is
// that could get secrets, deploying them says so.
func (n *Node) stagedRemoval(t *testing.T) {
	t.Helper()
	n.Must("secrets", "unset", "CANARY", "--stage", "--app", "shop")
	if out := n.Must("secrets", "list", "--app", "shop"); !strings.Contains(out, "CANARY") || !strings.Contains(out, "staged for removal") {
		t.Errorf("the list is\n%s", out)
	}
	n.Must("apps", "create", "bare")
	n.Must("secrets", "set", "KEY=value", "--app", "bare")
	if _, errs, code := n.Perigee("secrets", "deploy", "--app", "bare"); code != 2 || !strings.Contains(errs, "no release and no machine yet") || !strings.Contains(errs, "perigee deploy") {
		t.Errorf("without a release: %d %s", code, errs)
	}
	n.Must("secrets", "unset", "KEY", "--app", "bare")
}

// answers are what the API says where a secret could be.
func (n *Node) answers(t *testing.T, m api.Machine) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	root := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", n.Socket())
	}}}
	base := "/v1/apps/shop"
	for _, path := range []string{"/v1/apps", base, base + "/machines", base + "/machines/" + m.ID, base + "/machines/" + m.ID + "/events", base + "/machines/" + m.ID + "/versions",
		base + "/machines/" + m.ID + "/ps", base + "/machines/" + m.ID + "/metadata", base + "/secrets", base + "/secrets/CANARY", base + "/releases", base + "/releases/1", base + "/logs",
		"/v1/audit", "/v1/node", "/v1/orgs/personal/machines"} {
		resp, err := root.Get("http://perigee" + path)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %s %s, %v", path, resp.Status, b, err)
		}
		out[path] = b
	}
	return out
}

// finder looks for a secret in the forms that it could take.
type finder struct{ forms [][]byte }

func (f finder) look(t *testing.T, what string, b []byte) {
	t.Helper()
	for _, form := range f.forms {
		if i := bytes.Index(b, form); i >= 0 {
			t.Errorf("the secret is in %s: …%q", what, b[max(0, i-60):min(len(b), i+20)])
		}
	}
}

// processes looks at the command lines of all of the server, and at the environment
// of none: those are root's alone.
func (f finder) processes(t *testing.T) {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil || len(lines) == 0 {
		t.Fatal(err)
	}
	for _, path := range lines {
		if b, err := os.ReadFile(path); err == nil { // it may have ended
			f.look(t, fmt.Sprintf("%s (%.80q)", path, b), b)
		}
	}
}

// files looks at all files below dir but those that are skipped.
func (f finder) files(t *testing.T, dir string, skip func(path string) bool) {
	t.Helper()
	n := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil // it may be gone meanwhile
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil || skip(rel) {
			return err
		}
		fi, err := d.Info()
		if err != nil || fi.Size() > 256<<20 {
			return nil
		}
		b, err := os.ReadFile(path)
		if err == nil {
			n++
			f.look(t, rel, b)
		}
		return nil
	})
	if err != nil || n < 10 {
		t.Errorf("looked at %d files, %v", n, err)
	}
}
