package test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/internal/debian"
)

// flyNode is a node with two images, as somebody who comes with flyctl finds it.
type flyNode struct {
	*Node
	images [2]string // by digest
}

func newFlyNode(t *testing.T) *flyNode {
	n := &flyNode{Node: Start(t, "--ip-pool", "2001:db8:f1::/64")}
	if _, err := n.Client.CreateApp(t.Context(), api.CreateAppRequest{AppName: "images"}); err != nil {
		t.Fatal(err)
	}
	for i, release := range []string{"one", "two"} {
		n.images[i] = n.load(t, archive(t, "testapp:"+release, debian.Recipe{Files: map[string][]byte{"/testapp": AppProgram(t)},
			Config: v1.Config{Entrypoint: []string{"/testapp"}, WorkingDir: "/", Env: []string{"RELEASE=" + release}}}))
	}
	return n
}

// load brings an archive to the node.
func (n *flyNode) load(t *testing.T, path string) (ref string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for p, err := range n.Client.ImportImage(t.Context(), "images", f) {
		if err != nil || p.Error != nil {
			t.Fatal(err, p.Error)
		}
		ref = p.Image
	}
	return ref
}

// TestFlyctl holds flyctl's side of the wire against a real node: its requests as
// they were observed, and, where there is the program, flyctl itself.
func TestFlyctl(t *testing.T) {
	n := newFlyNode(t)
	cases, err := filepath.Glob("testdata/flyctl/*.txt")
	if err != nil || len(cases) == 0 {
		t.Fatal("no requests to replay", err)
	}
	for _, path := range cases {
		name := strings.TrimSuffix(filepath.Base(path), ".txt")
		t.Run("replay/"+name, func(t *testing.T) { n.replay(t, name, path) })
	}
	t.Run("program", func(t *testing.T) { n.program(t) })
}

// replay makes the requests of a file, one after the other:
//
//	> METHOD path      and the body in further lines that begin with >
//	+ Header: value
//	< status           and in further lines what the answer must hold
//	! text             that it must not hold
//	= NAME a.0.b       keeps a value of the answer as $NAME
//
// $APP is an app of the file's own, $ONE and $TWO are images. "< eventually" in
// front of a status repeats the request for a while.
func (n *flyNode) replay(t *testing.T, name, path string) {
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	vars := map[string]string{"APP": "replay-" + name, "ONE": n.images[0], "TWO": n.images[1]}
	for _, part := range regexp.MustCompile(`(?m)^> [A-Z]+ /`).FindAllStringIndex(string(b), -1) {
		r := parseRequest(t, string(b[part[0]:]))
		if !n.meets(t, r, vars) {
			return
		}
	}
}

// request is one of a file.
type request struct {
	method, path, body string
	header             http.Header
	status             string
	patience           time.Duration
	holds, lacks       []string
	keeps              [][2]string
}

// parseRequest reads the first request of the text.
func parseRequest(t *testing.T, text string) (r request) {
	t.Helper()
	r.header = http.Header{}
	for _, line := range strings.Split(text, "\n") {
		mark, rest, _ := strings.Cut(line, " ")
		switch {
		case mark == ">" && r.method == "":
			r.method, r.path, _ = strings.Cut(rest, " ")
		case mark == ">" && r.status != "":
			return r // the next one
		case mark == ">":
			r.body += rest + "\n"
		case mark == "+":
			k, v, _ := strings.Cut(rest, ": ")
			r.header.Set(k, v)
		case mark == "<" && r.status == "":
			if r.status = strings.TrimPrefix(rest, "eventually "); r.status != rest {
				r.patience = 10 * time.Second
			}
		case mark == "<":
			r.holds = append(r.holds, rest)
		case mark == "!":
			r.lacks = append(r.lacks, rest)
		case mark == "=":
			k, v, _ := strings.Cut(rest, " ")
			r.keeps = append(r.keeps, [2]string{k, v})
		case line != "" && mark != "#":
			t.Fatalf("cannot read line %q", line)
		}
	}
	return r
}

// meets makes the request, again if it has patience, and reports whether the answer
// is as wanted.
func (n *flyNode) meets(t *testing.T, r request, vars map[string]string) bool {
	fill := func(s string) string { return os.Expand(s, func(k string) string { return vars[k] }) }
	for end := time.Now().Add(r.patience); ; time.Sleep(100 * time.Millisecond) {
		status, body := n.ask(t, r.method, fill(r.path), fill(r.body), r.header, fill)
		wrong := ""
		if fmt.Sprint(status) != r.status {
			wrong = "status " + r.status
		}
		for _, s := range r.holds {
			if !strings.Contains(body, fill(s)) {
				wrong = fill(s)
			}
		}
		for _, s := range r.lacks {
			if strings.Contains(body, fill(s)) {
				wrong = "not " + fill(s)
			}
		}
		if wrong != "" && time.Now().Before(end) {
			continue
		}
		if wrong != "" {
			t.Errorf("%s %s\n%s\nwant %s, got %d %s", r.method, fill(r.path), fill(r.body), wrong, status, body)
			return false
		}
		for _, k := range r.keeps {
			vars[k[0]] = pick(t, body, k[1])
		}
		return true
	}
}

func (n *flyNode) ask(t *testing.T, method, path, body string, header http.Header, fill func(string) string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+n.API+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+n.Token)
	req.Header.Set("User-Agent", "flyctl/0.4")
	for k, v := range header {
		req.Header.Set(k, fill(v[0]))
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// pick takes a value out of JSON by its path.
func pick(t *testing.T, body, path string) string {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(body), &v); err != nil {
		t.Fatalf("no JSON: %s", body)
	}
	for _, k := range strings.Split(path, ".") {
		switch x := v.(type) {
		case map[string]any:
			v = x[k]
		case []any:
			i := 0
			if _, err := fmt.Sscan(k, &i); err != nil || i >= len(x) {
				t.Fatalf("no %s in %s", path, body)
			}
			v = x[i]
		}
	}
	if v == nil {
		t.Fatalf("no %s in %s", path, body)
	}
	return fmt.Sprint(v)
}

// flyctl is the program, or "".
func flyctl() string {
	if p := os.Getenv("FLYCTL"); p != "" {
		return p
	}
	p, _ := exec.LookPath("flyctl")
	return p
}

// program runs the commands of docs/flyctl.md's table with flyctl itself.
func (n *flyNode) program(t *testing.T) {
	bin := flyctl()
	if bin == "" {
		t.Skip("there is no flyctl: FLYCTL may name one; make test-flyctl says so too")
	}
	dir, home := t.TempDir(), t.TempDir()
	write(t, filepath.Join(dir, "fly.toml"), flyToml)
	vars := map[string]string{"ONE": n.images[0], "TWO": n.images[1]}
	env := append(os.Environ(), "FLY_API_BASE_URL=http://"+n.API, "FLY_FLAPS_BASE_URL=http://"+n.API, "FLY_UIEX_BASE_URL=http://"+n.API,
		"FLY_API_TOKEN="+n.Token, "FLY_SEND_METRICS=0", "FLY_NO_UPDATE_CHECK=1", "FLY_CONFIG_DIR="+home, "HOME="+home, "NO_COLOR=1")
	for _, c := range flyCommands {
		args := os.Expand(c.args, func(k string) string {
			switch k {
			case "MACHINE":
				vars[k] = n.first(t, "flown")
			case "VOLUME":
				vars[k] = n.volume(t, "flown")
			}
			return vars[k]
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		cmd := exec.CommandContext(ctx, bin, strings.Fields(args)...)
		cmd.Dir, cmd.Env = dir, env
		out, err := cmd.CombinedOutput()
		cancel()
		if (err != nil) != c.fails || !strings.Contains(string(out), c.says) {
			t.Errorf("flyctl %s\nwant %q, failing %v; got %v\n%s", args, c.says, c.fails, err, out)
		}
		if c.then != nil && !t.Failed() {
			c.then(t, n)
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// first is the oldest machine of an app.
func (n *flyNode) first(t *testing.T, app string) string {
	t.Helper()
	all, err := n.Client.ListMachines(t.Context(), app)
	if err != nil || len(all) == 0 {
		t.Fatalf("app %s has no machine: %v", app, err)
	}
	return all[0].ID
}

// volume is the newest volume of an app.
func (n *flyNode) volume(t *testing.T, app string) string {
	t.Helper()
	all, err := n.Client.ListVolumes(t.Context(), app)
	if err != nil || len(all) == 0 {
		t.Fatalf("app %s has no volume: %v", app, err)
	}
	return slices.MaxFunc(all, func(a, b api.Volume) int { return a.CreatedAt.Compare(b.CreatedAt) }).ID
}

// serves checks that visitors reach the release.
func serves(app, release string) func(*testing.T, *flyNode) {
	return func(t *testing.T, n *flyNode) {
		t.Helper()
		got := ""
		for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+n.HTTP+"/release", nil)
			req.Host = app + ".apps.localhost"
			if resp, err := http.DefaultClient.Do(req); err == nil {
				b, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if got = string(b); got == release {
					return
				}
			}
		}
		t.Errorf("%s serves %q, want %q", app, got, release)
	}
}

// machines checks how many an app has.
func machines(app string, want int) func(*testing.T, *flyNode) {
	return func(t *testing.T, n *flyNode) {
		t.Helper()
		if all, err := n.Client.ListMachines(t.Context(), app); err != nil || len(all) != want {
			t.Errorf("%s has %d machines, want %d; %v", app, len(all), want, err)
		}
	}
}

const flyToml = `app = "flown"
primary_region = "lab"
[deploy]
  release_command = "exit 0"
[http_service]
  internal_port = 8080
  auto_stop_machines = "off"
  auto_start_machines = true
  min_machines_running = 1
  [[http_service.checks]]
    path = "/healthy"
    interval = "1s"
    timeout = "1s"
    grace_period = "1s"
`

// flyCommands is the table of docs/flyctl.md as far as it works, in an order that
// makes sense.
var flyCommands = []struct {
	args, says string
	fails      bool
	then       func(*testing.T, *flyNode)
}{
	{args: "auth whoami", says: "@"},
	{args: "orgs list", says: "personal"},
	{args: "apps create flown", says: "New app created: flown"},
	{args: "apps create flown", says: "App names are unique", fails: true},
	{args: "apps list", says: "flown"},
	{args: "deploy --image $ONE --ha=false --yes --smoke-checks=false", says: "update finished: success", then: serves("flown", "one")},
	{args: "status", says: "1 total, 1 passing"},
	{args: "checks list", says: "servicecheck-00-http-8080"},
	{args: "deploy --image $TWO --yes --smoke-checks=false", says: "release_command", then: serves("flown", "two")},
	{args: "deploy --image $ONE --yes --smoke-checks=false --strategy immediate", says: "update succeeded", then: serves("flown", "one")},
	{args: "deploy --image $TWO --yes --smoke-checks=false --strategy canary", says: "update succeeded", then: machines("flown", 1)},
	{args: "deploy --image $ONE --yes --strategy bluegreen --dns-checks=false", says: "Deployment Complete", then: serves("flown", "one")},
	{args: "deploy --image $TWO --yes --strategy immediate --dns-checks=false", says: "update succeeded", then: serves("flown", "two")},
	{args: "deploy --image images:nothing --yes", says: "images:nothing", fails: true, then: serves("flown", "two")},
	{args: "releases", says: "complete"},
	{args: "config show", says: `"release_command": "exit 0"`},
	{args: "config save --yes", says: "Wrote config file"},
	{args: "image show", says: "sha256:"},
	{args: "logs -n", says: "testapp two starts"},
	{args: "ips list", says: "private ingress"},
	{args: "ips allocate-v6", says: "2001:db8:f1:"},
	{args: "secrets set KEY=secret --stage", says: "staged"},
	{args: "secrets list", says: "Staged"},
	{args: "secrets unset KEY --stage", says: "staged"},
	{args: "secrets set KEY=secret --detach", says: "update succeeded"},
	{args: "secrets list", says: "Deployed"},
	{args: "secrets unset KEY --detach", says: "update succeeded"},
	{args: "machine list", says: "lab"},
	{args: "machine status $MACHINE", says: "started"},
	{args: "machine stop $MACHINE", says: "successfully stopped"},
	{args: "machine start $MACHINE", says: "has been started"},
	{args: "machine suspend $MACHINE", says: "is being suspended"},
	{args: "machine start $MACHINE", says: "has been started"},
	{args: "machine restart $MACHINE", says: "restarted successfully", then: serves("flown", "two")},
	{args: "machine update $MACHINE --yes --env MORE=1", says: "updated successfully"},
	{args: "machine exec $MACHINE /testapp", says: "address already in use"},
	{args: "machine clone $MACHINE", says: "successfully cloned", then: machines("flown", 2)},
	{args: "machine run $ONE --region lab", says: "successfully launched", then: machines("flown", 3)},
	{args: "scale show", says: "256 MB"},
	{args: "scale memory 512", says: "512 MB"},
	{args: "scale vm shared-cpu-2x", says: "CPU Cores: 2"},
	{args: "machine destroy --force $MACHINE", says: "has been destroyed", then: machines("flown", 2)},
	{args: "scale count 3 --yes", says: "Created", then: machines("flown", 4)},
	{args: "scale count 1 --yes", says: "Destroyed", then: machines("flown", 2)},
	{args: "volumes create data --size 1 --region lab --yes", says: "data"},
	{args: "volumes list", says: "created"},
	{args: "volumes show $VOLUME", says: "Size GB: 1"},
	{args: "volumes extend $VOLUME --size 2 --yes", says: "Size GB: 2"},
	{args: "volumes snapshots create $VOLUME", says: "Scheduled to snapshot"},
	{args: "volumes snapshots list $VOLUME", says: "vs_"},
	{args: "volumes destroy $VOLUME --yes", says: "Destroyed volume"},
	{args: "certs add flyctl.example.test", says: "Certificate created"},
	{args: "certs list", says: "flyctl.example.test"},
	{args: "certs show flyctl.example.test", says: "flyctl.example.test"},
	{args: "tokens create deploy", says: "perigee_"},
	{args: "tokens list", says: "flyctl deploy token"},
	{args: "ssh console", says: "docs/flyctl.md", fails: true},
	{args: "apps destroy flown --yes", says: "Destroyed app flown"},
	{args: "launch --no-deploy --yes --name launched --region lab --image $ONE --internal-port 8080", says: "launched"},
	{args: "apps destroy launched --yes", says: "Destroyed app launched"},
}
