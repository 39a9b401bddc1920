//go:build linux

package lab

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// needNode skips where there is no perigeed to start.
func needNode(t testing.TB) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(os.Getenv("PERIGEE_BIN"), "perigeed")); err != nil || os.Getenv("PERIGEE_BIN") == "" {
		t.Skip("needs the programs: make build, and PERIGEE_BIN")
	}
}

func TestNode(t *testing.T) {
	needNode(t)
	l := newLab(t, "iad", "fra")
	n, err := l.StartNode(t.Context(), NodeConfig{City: "fra"})
	if err != nil {
		t.Fatal(err)
	}
	info, err := n.Client().Node(t.Context())
	if err != nil || info.Region != "fra" || info.Name != "fra-1" {
		t.Errorf("node %+v: %v", info, err)
	}
	first := n.Pid()
	if err := n.Restart(t.Context()); err != nil || n.Pid() == first {
		t.Errorf("restart: %v", err)
	}
	// The router answers to the other city.
	visitor := addHost(t, l, "visitor-iad", "iad")
	began := time.Now()
	resp, err := visitor.HTTPClient().Get("http://" + n.Addr4.String() + "/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if took := time.Since(began); took < 2*l.RTT("iad", "fra") {
		t.Errorf("an answer after %s, sooner than light", took)
	}
	if err := n.Stop(); err != nil || n.Running() {
		t.Errorf("stop: %v", err)
	}
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := n.Crash(); err != nil || n.Running() {
		t.Errorf("crash: %v", err)
	}
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestNodeThatCannotStart(t *testing.T) {
	needNode(t)
	l := newLab(t, "iad")
	_, err := l.StartNode(t.Context(), NodeConfig{City: "iad", Args: []string{"--frob"}})
	if err == nil || len(l.Hosts()) != 0 || len(l.Nodes()) != 0 {
		t.Errorf("%v, %d hosts", err, len(l.Hosts()))
	}
	t.Log(err)
}

// Two nodes become one cluster, over the distance.
func TestNodesJoin(t *testing.T) {
	needNode(t)
	help, _ := exec.Command(filepath.Join(os.Getenv("PERIGEE_BIN"), "perigeed"), "join", "--help").Output()
	if !strings.Contains(string(help), "--token") {
		t.Skip("needs a perigeed that can join")
	}
	l := newLab(t, "iad", "fra")
	first, err := l.StartNode(t.Context(), NodeConfig{City: "iad"})
	if err != nil {
		t.Fatal(err)
	}
	join, err := first.JoinThis(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	second, err := l.StartNode(t.Context(), NodeConfig{City: "fra", Join: join})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := l.Settle(ctx); err != nil || !first.sees(ctx, 2) || !second.sees(ctx, 2) {
		t.Errorf("the nodes do not see each other: %v", err)
	}
	if err := second.Restart(t.Context()); err != nil {
		t.Error("a node that has joined does not come back:", err)
	}
	wrong := *join
	wrong.Token += "x"
	if _, err := l.StartNode(t.Context(), NodeConfig{City: "fra", Join: &wrong}); err == nil || strings.Contains(err.Error(), wrong.Token) {
		t.Errorf("joined with a wrong token, or told it: %v", err)
	}
}
