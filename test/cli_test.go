package test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/rogpeppe/go-internal/testscript"
)

// TestScripts runs the command line against one real node, as its users do.
// The scripts share the node, so each uses app names of its own.
func TestScripts(t *testing.T) {
	n := Start(t)
	app := App(t)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			for k, v := range map[string]string{
				"PERIGEE_ADDR": "unix://" + n.Socket(), "PERIGEE_LOGIN": filepath.Join(e.WorkDir, "login.json"), "NO_COLOR": "1",
				"PATH": n.Bin + string(os.PathListSeparator) + os.Getenv("PATH"), "TESTAPP": app, "API": n.API, "TOKEN": n.Token, "HTTP": n.HTTP,
				"APIPORT": n.API[strings.LastIndex(n.API, ":")+1:],
			} {
				e.Setenv(k, v)
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "envsubst": envsubst},
	})
}

// exits runs a command and checks its exit code: exits 2 perigee deploy --frob.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := err.(*exec.ExitError)
		if !ok {
			ts.Fatalf("%v: %v", args[1:], err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("%v: exit code %d, want %d", args[1:], got, want)
	}
}

// envsubst puts the script's variables into a file.
func envsubst(ts *testscript.TestScript, _ bool, args []string) {
	path := ts.MkAbs(args[0])
	b, err := os.ReadFile(path)
	ts.Check(err)
	ts.Check(os.WriteFile(path, []byte(os.Expand(string(b), ts.Getenv)), 0o644))
}

// TestDemo runs the demo that the README promises.
func TestDemo(t *testing.T) {
	bin := Programs(t)
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "../scripts/demo.sh", bin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"is live after", "visitor-syd", "syd: 10 of 10 requests answered", "fra: 10 of 10 requests answered", "all served from Ashburn", "paused, its memory kept", "suspended to disk", "1 in fra, 1 in iad, 1 in syd"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the demo does not show %q:\n%s", want, out)
		}
	}
}

// TestUpAndDown starts a node with the command line, kills it, and starts it
// again.
func TestUpAndDown(t *testing.T) {
	bin := Programs(t)
	dir, err := os.MkdirTemp("", "pgup")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	perigee := func(want int, args ...string) string {
		t.Helper()
		cmd := exec.Command(filepath.Join(bin, "perigee"), args...)
		cmd.Env = append(os.Environ(), "PERIGEE_LOGIN="+filepath.Join(dir, "login.json"), "NO_COLOR=1")
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != want {
			t.Fatalf("perigee %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	up := []string{"up", "--data", filepath.Join(dir, "data"), "--socket", filepath.Join(dir, "api.sock"), "--listen", freeAddr(t), "--http", freeAddr(t), "--https", freeAddr(t), "--", "--network-prefix", "pgup", "--ipv6", "fdac::/16"}
	perigee(0, up...)
	defer exec.Command(filepath.Join(bin, "perigee"), "down", "--machines", "--data", filepath.Join(dir, "data")).Run()
	if out := perigee(1, up...); !strings.Contains(out, "a node runs already") || !strings.Contains(out, "hint:") {
		t.Errorf("second up: %s", out)
	}
	if out := perigee(0, "status"); !strings.Contains(out, "*.perigee.localhost") {
		t.Errorf("status: %s", out)
	}
	perigee(0, "doctor")
	perigee(0, "down", "--data", filepath.Join(dir, "data"))
	if out := perigee(1, "down", "--data", filepath.Join(dir, "data")); !strings.Contains(out, "no node runs") {
		t.Errorf("second down: %s", out)
	}
	perigee(7, "status")
	busy := append([]string(nil), up...)
	busy[6] = "256.0.0.1:1"
	if out := perigee(1, busy...); !strings.Contains(out, "cannot open the API") {
		t.Errorf("up with a wrong address: %s", out)
	}
	perigee(0, up...)
	perigee(0, "down", "--machines", "--data", filepath.Join(dir, "data"))
	if n := countDevices("pgup-"); n != 0 {
		t.Errorf("%d network devices are left after down --machines", n)
	}
}

func countDevices(prefix string) int {
	b, _ := os.ReadFile("/proc/net/dev")
	return strings.Count(string(b), prefix)
}

// TestTokens checks that the TCP port lets in nobody without the token.
func TestTokens(t *testing.T) {
	n := Start(t)
	ctx := context.Background()
	for _, token := range []string{"", "wrong", n.Token + "x", n.Token[:len(n.Token)-1]} {
		c, err := api.NewClient(api.ClientConfig{Addr: "http://" + n.API, Token: token})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.ListApps(ctx); !api.IsCode(err, api.CodeUnauthorized) {
			t.Errorf("token %q: %v", token, err)
		}
		if _, err := c.CreateApp(ctx, api.CreateAppRequest{AppName: "intruder"}); !api.IsCode(err, api.CodeUnauthorized) {
			t.Errorf("token %q creates: %v", token, err)
		}
	}
	c, err := api.NewClient(api.ClientConfig{Addr: "http://" + n.API, Token: n.Token})
	if err != nil {
		t.Fatal(err)
	}
	if apps, err := c.ListApps(ctx); err != nil || len(apps) != 0 {
		t.Errorf("with the token: %v, %v", apps, err)
	}
}
