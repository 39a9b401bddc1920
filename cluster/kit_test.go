package cluster

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/catalog"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		joinAndDie()
		return
	}
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*Server).WaitForShutdown"),
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"))
}

var quiet = slog.New(slog.DiscardHandler)

// clock is a clock that tests shift.
type clock struct{ shift atomic.Int64 }

func (c *clock) now() time.Time      { return time.Now().Add(time.Duration(c.shift.Load())) }
func (c *clock) add(d time.Duration) { c.shift.Add(int64(d)) }

// cloud is a store that the nodes of a test share.
type cloud struct{ url string }

func newCloud(t testing.TB) *cloud {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the NATS server does not start")
	}
	return &cloud{s.ClientURL()}
}

// station is a node that runs.
type station struct {
	*Cluster
	dir  string
	at   string // of its peers' server
	stop func() // ends it
}

// found starts the first node.
func (cl *cloud) found(t testing.TB, cfg Config) *station {
	t.Helper()
	cfg.Name = cmp.Or(cfg.Name, "a")
	return cl.start(t, cfg, listen(t))
}

// add joins a node to the cluster of via and starts it.
func (cl *cloud) add(t testing.TB, via *station, name, region string, roles ...string) *station {
	t.Helper()
	l := listen(t)
	tok := via.token(t, api.CreateJoinTokenRequest{})
	dir := t.TempDir()
	_, err := Join(t.Context(), JoinConfig{Address: via.at, Token: tok.Token, Dir: dir, Name: name, Region: region, Roles: roles, PeerPort: port(l), now: via.cfg.now})
	if err != nil {
		t.Fatal(err)
	}
	return cl.start(t, Config{Dir: dir, now: via.cfg.now}, l)
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func port(l net.Listener) int { return l.Addr().(*net.TCPAddr).Port }

func (cl *cloud) start(t testing.TB, cfg Config, l net.Listener) *station {
	t.Helper()
	cfg.Dir, cfg.Logger, cfg.PeerPort = cmp.Or(cfg.Dir, t.TempDir()), quiet, port(l)
	if cfg.Address == "" {
		cfg.Address = "127.0.0.1"
	}
	c, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	cat, err := catalog.Open(t.Context(), catalog.Config{Servers: []string{cl.url}, Node: c.Self().Name, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Attach(t.Context(), cat); err != nil {
		t.Fatal(err)
	}
	s := &station{Cluster: c, dir: cfg.Dir, at: l.Addr().String()}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = c.Server(http.HandlerFunc(whoCalls)).Run(ctx, l) })
	running.Go(func() { _ = c.Run(ctx) })
	s.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		c.closeClients()
		cat.Close()
	})
	t.Cleanup(s.stop)
	return s
}

// whoCalls is the handler of all nodes here.
func whoCalls(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/peer/v1/lie" {
		w.Header().Set(refusedHeader, ReasonRemoved)
		w.WriteHeader(http.StatusForbidden)
		return
	}
	name, ok := PeerFrom(r.Context())
	fmt.Fprintf(w, "%s %v %s", name, ok, r.Proto)
}

func (s *station) token(t testing.TB, req api.CreateJoinTokenRequest) api.JoinToken {
	t.Helper()
	tok, err := s.CreateToken(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// call asks another node who it thinks is calling.
func (s *station) call(ctx context.Context, node string) (string, error) {
	return s.get(ctx, node, "/peer/v1/who")
}

func (s *station) get(ctx context.Context, node, path string) (string, error) {
	client, base, err := s.HTTPClient(node)
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%d: %s", resp.StatusCode, b)
	}
	return string(b), err
}

// eventually waits for what others must first hear.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never: " + what)
		}
	}
}

func wantError(t testing.TB, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error; want %q", words)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
}

func hostOf(t testing.TB, at string) (string, int) {
	t.Helper()
	host, p, err := net.SplitHostPort(at)
	if err != nil {
		t.Fatal(err)
	}
	n, _ := strconv.Atoi(p)
	return host, n
}
