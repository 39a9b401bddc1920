package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/cli"
	"github.com/perigee-run/perigee/cluster"
)

// peers lets nodes join the kit's cluster until the test ends.
func (k *kit) peers(t *testing.T) (at string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = k.cluster.Server(http.NotFoundHandler()).Run(ctx, l) })
	t.Cleanup(func() { cancel(); running.Wait() })
	return l.Addr().String()
}

func (k *kit) join(t *testing.T, at, name, region string) {
	t.Helper()
	tok, err := k.CreateJoinToken(t.Context(), api.CreateJoinTokenRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cluster.Join(t.Context(), cluster.JoinConfig{Address: at, Token: tok.Token, Dir: t.TempDir(), Name: name, Region: region}); err != nil {
		t.Fatal(err)
	}
}

func TestNodes(t *testing.T) {
	k := newKit(t)
	at := k.peers(t)
	k.join(t, at, "n2", "syd")
	k.busy.Store(2)
	nodes, err := k.ListNodes(t.Context())
	if err != nil || len(nodes) != 2 || nodes[0].Name != "n1" || !nodes[0].Self || !nodes[0].Member || nodes[1].Region != "syd" || nodes[1].Machines != 2 {
		t.Fatalf("%+v, %v", nodes, err)
	}
	for _, step := range []struct {
		do    func(context.Context, string) error
		state string
	}{{k.CordonNode, "cordoned"}, {k.UncordonNode, "up"}, {k.DrainNode, "draining"}} {
		if err := step.do(t.Context(), "n2"); err != nil {
			t.Fatal(err)
		}
		if n, err := k.GetNode(t.Context(), "n2"); err != nil || n.State != step.state {
			t.Errorf("want %s: %+v, %v", step.state, n, err)
		}
	}
	if u, err := k.UpgradeNode(t.Context(), "n1"); err != nil || u.Version != "2.0" {
		t.Errorf("%+v, %v", u, err)
	}
	if err := k.RemoveNode(t.Context(), "n2", false); !api.IsCode(err, api.CodeConflict) {
		t.Error(err)
	}
	k.busy.Store(0)
	if n, err := k.GetNode(t.Context(), "n2"); err != nil || n.State != "drained" || !n.Drained() {
		t.Errorf("%+v, %v", n, err)
	}
	if err := k.RemoveNode(t.Context(), "n2", false); err != nil {
		t.Error(err)
	}
	for _, err := range []error{k.RemoveNode(t.Context(), "n2", true), k.DrainNode(t.Context(), "no.such*node"), k.RevokeJoinToken(t.Context(), "a.b>")} {
		if !api.IsCode(err, api.CodeNotFound) {
			t.Error(err)
		}
	}
	if err := k.RemoveNode(t.Context(), "n1", true); !api.IsCode(err, api.CodeConflict) {
		t.Errorf("the only node removed itself: %v", err)
	}
}

func TestNodesWithoutACloud(t *testing.T) {
	s := &Server{}
	s.cfg.MaxBody = 100
	for _, r := range s.clusterRoutes() {
		w := httptest.NewRecorder()
		req, _ := http.NewRequest(r.method, r.path, strings.NewReader("{}"))
		c := &call{server: s, route: &r, w: w, r: req, warned: map[string]bool{}}
		if err := r.endpoint.serve(c); !api.IsCode(err, api.CodeUnsupported) {
			t.Errorf("%s: %v", r.id, err)
		}
	}
}

// perigee runs the command line against the kit.
func (k *kit) perigee(args ...string) (code int, out, errs string) {
	var o, e bytes.Buffer
	code = cli.Main(append([]string{"--addr", k.url, "--token", secret, "--no-color"}, args...), cli.IO{In: strings.NewReader(""), Out: &o, Err: &e})
	return code, o.String(), e.String()
}

// TestNodeCommands runs the command line's verbs for nodes, as users do.
func TestNodeCommands(t *testing.T) {
	t.Setenv("PERIGEE_LOGIN", t.TempDir()+"/login.json")
	k := newKit(t)
	at := k.peers(t)
	k.join(t, at, "n2", "syd")
	k.busy.Store(3)
	run := func(code int, line string, want ...string) string {
		t.Helper()
		got, out, errs := k.perigee(strings.Fields(line)...)
		if got != code {
			t.Errorf("perigee %s: exit code %d, want %d\n%s%s", line, got, code, out, errs)
		}
		for _, w := range want {
			if !regexp.MustCompile(w).MatchString(out + errs) {
				t.Errorf("perigee %s does not say %q:\n%s%s", line, w, out, errs)
			}
		}
		return out
	}
	run(0, "nodes", `NAME +REGION +ROLES +MEMBER +ADDRESS +VERSION +STATE`, `n1 +fra +host,edge,state,build +yes +192.0.2.1 .*up`, `n2 +syd .* - +127.0.0.1 .*up`)
	run(0, "nodes --json", `"name": "n2"`, `"state": "up"`)
	page := []string{`state +up`, `roles +host, edge`, `address +`, `apps at +\*\.node`, `size +4 CPUs, 2048 MiB`, `machines +3`, `certified +\ds ago`}
	run(0, "node show n2", append(page, "region +syd")...)
	run(0, "node show", append(page, "region +fra", "registry +localhost:4280")...)
	run(0, "node show n1", append(page, "region +fra", "registry +localhost:4280")...)
	run(3, "node show n9", `there is no node "n9"`, `hint: perigee nodes lists them`)
	run(0, "node cordon n2", "n2 takes no new machines")
	run(0, "node uncordon n2", "n2 takes machines")
	run(5, "node remove n2", `node "n2" is up and has 3 machines`, `hint: drain it first`)
	run(2, "node drain", "needs NODE")
	run(2, "node token frob", `unknown command "frob"`)
	run(2, "node token --uses 0", "at least 1")
	run(2, "node token --roles king", `"king"`)

	token := strings.TrimSpace(run(0, "node token --ttl 10m --uses 2 --region syd --roles host", `perigee1-`, `sudo perigee join 192.0.2.1:4281 --token TOKEN --region syd --roles host`))
	run(0, "node token --region zzz", `warning: region "zzz" is no city`)
	parsed, err := cluster.ParseToken(token)
	if err != nil {
		t.Fatal(err)
	}
	if out := run(0, "node tokens", parsed.ID+` +valid +2 .* syd +host`, `used +0 .* n2`); strings.Contains(out, token) {
		t.Error("the list shows a token")
	}
	run(0, "node token revoke "+parsed.ID, "revoked")
	run(0, "node tokens", parsed.ID+" +revoked")
	run(3, "node token revoke aaaaaaaa", "no join token")

	run(1, "node drain n2 --wait 300ms", "3 machines and 0 requests are left on n2", "is not empty after 300ms")
	go func() {
		time.Sleep(300 * time.Millisecond)
		k.busy.Store(1)
		time.Sleep(300 * time.Millisecond)
		k.busy.Store(0)
	}()
	run(0, "node drain n2", "3 machines and", "1 machine and", "n2 is empty")
	k.busy.Store(-1)
	run(1, "node drain n2", "is down: it cannot say")
	run(0, "nodes", "down, draining")
	run(0, "node remove n2", "removed n2")
	run(3, "node remove n2", "there is no node")
}

// TestTokensOnTheCommandLine: made, used, narrowed, revoked.
func TestTokensOnTheCommandLine(t *testing.T) {
	k := newKit(t)
	k.app(t, "shop")
	t.Setenv("PERIGEE_LOGIN", t.TempDir()+"/login.json")
	as := func(token string, want int, line string, input ...string) string {
		t.Helper()
		var out, errs strings.Builder
		args := append([]string{"--addr", k.url, "--token", token, "--no-color"}, strings.Fields(line)...)
		if code := cli.Main(args, cli.IO{In: strings.NewReader(strings.Join(input, "\n")), Out: &out, Err: &errs}); code != want {
			t.Fatalf("perigee %s: exit code %d, want %d: %s%s", line, code, want, &out, &errs)
		}
		return out.String() + errs.String()
	}
	as(secret, 0, "orgs create acme")
	as(secret, 5, "orgs create acme")
	if out := as(secret, 0, "orgs list"); !strings.Contains(out, "acme") || !strings.Contains(out, "personal") {
		t.Error(out)
	}
	made := as(secret, 0, "tokens create org --org personal --name ops --expiry 1h --json")
	var r api.CreateTokenResponse
	if err := json.Unmarshal([]byte(made), &r); err != nil {
		t.Fatal(err)
	}
	if out := as(r.Token, 0, "apps list"); !strings.Contains(out, "shop") {
		t.Error(out)
	}
	if out := as(r.Token, 0, "orgs list"); strings.Contains(out, "acme") {
		t.Error(out)
	}
	as(r.Token, 4, "nodes")
	as(r.Token, 4, "tokens list --org acme")
	as(r.Token, 0, "secrets set KEY=v --app shop --stage")
	look := strings.TrimSpace(as(r.Token, 0, "tokens attenuate --read-only --app shop"))
	if out := as(r.Token, 0, "tokens inspect", look); !strings.Contains(out, "shop") {
		t.Errorf("standard input counts before the token in use: %s", out)
	}
	as(look, 0, "secrets list --app shop")
	as(look, 4, "secrets set KEY=w --app shop --stage")
	as(look, 0, "login "+k.url)
	as(r.Token, 0, "tokens create machine-exec --app shop -- date ...")
	if out := as(secret, 0, "tokens list"); !strings.Contains(out, "ops") || !strings.Contains(out, "machine-exec") || strings.Contains(out, "perigee_") {
		t.Error(out)
	}
	as(secret, 0, "tokens revoke "+r.ID)
	as(secret, 3, "tokens revoke none")
	if out := as(look, 4, "apps list"); !strings.Contains(out, "revoked") {
		t.Error(out)
	}
}
