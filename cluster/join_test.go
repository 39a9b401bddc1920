package cluster

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
)

func shared([]string) (map[string][]byte, error) {
	return map[string][]byte{"secrets.key": []byte("s3cret"), "ca/root.key": []byte("root")}, nil
}

func TestJoin(t *testing.T) {
	cl := newCloud(t)
	a := cl.found(t, Config{Region: "iad", Bundle: shared})
	b := cl.add(t, a, "b", "fra")
	c := cl.add(t, a, "c", "syd", RoleHost, RoleEdge)
	if b.ID() != a.ID() || b.Self().Number == a.Self().Number || b.Self().Number == 0 || b.Self().Region != "fra" {
		t.Errorf("a is %+v, b is %+v", a.Self(), b.Self())
	}
	if !b.Certifies() || c.Certifies() {
		t.Errorf("b certifies: %v, c without the role state: %v", b.Certifies(), c.Certifies())
	}
	for name, want := range map[string]string{"secrets.key": "s3cret", "ca/root.key": "root", "name": "c\n"} {
		path := filepath.Join(c.dir, name)
		got, err := os.ReadFile(path)
		st, _ := os.Stat(path)
		if string(got) != want || st.Mode().Perm() != 0o600 {
			t.Errorf("%s is %q, %v", name, got, err)
		}
	}
	checkHome(t, b.dir, true)
	checkHome(t, c.dir, false)
	for _, from := range []*station{a, b, c} {
		eventually(t, "everyone knows everyone", func() bool { return len(from.Nodes()) == 3 })
		for _, to := range []string{"a", "b", "c"} {
			got, err := from.call(t.Context(), to)
			if want := from.Self().Name + " true HTTP/2.0"; got != want || err != nil {
				t.Errorf("%s to %s: %q, %v", from.Self().Name, to, got, err)
			}
		}
	}
}

// checkHome looks at modes, and for what should not be there.
func checkHome(t *testing.T, dir string, signs bool) {
	t.Helper()
	_ = filepath.WalkDir(filepath.Join(dir, homeDir), func(path string, d fs.DirEntry, err error) error {
		info, _ := d.Info()
		if err != nil || info.Mode().Perm()&0o077 != 0 || strings.HasSuffix(path, ".new") || d.Name() == sharedDir {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
		return nil
	})
	if _, err := os.Stat(filepath.Join(dir, homeDir, signerFile)); (err == nil) != signs {
		t.Errorf("the authority's key in %s: %v", dir, err)
	}
	for _, name := range []string{newDir, joiningDir} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			t.Errorf("%s was left", name)
		}
	}
}

// TestJoinThroughOneThatCannotCertify: any node's address will do.
func TestJoinThroughOneThatCannotCertify(t *testing.T) {
	cl := newCloud(t)
	a := cl.found(t, Config{})
	b := cl.add(t, a, "b", "fra", RoleEdge)
	c := cl.add(t, b, "c", "syd")
	if !c.Certifies() || len(c.Nodes()) != 3 {
		t.Errorf("c knows %v", c.Nodes())
	}
}

func TestJoinRefusals(t *testing.T) {
	cl, k := newCloud(t), &clock{}
	a := cl.found(t, Config{Name: "a", now: k.now})
	b := cl.add(t, a, "b", "fra")
	ttl := api.Duration(time.Minute)
	good := a.token(t, api.CreateJoinTokenRequest{Uses: 50})
	short := a.token(t, api.CreateJoinTokenRequest{TTL: &ttl})
	revoked := a.token(t, api.CreateJoinTokenRequest{})
	if err := b.RevokeToken(t.Context(), revoked.ID); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a hears of it", func() bool { r, _ := a.tables.tokens.Get(revoked.ID); return r.Value.Revoked })
	edge := a.token(t, api.CreateJoinTokenRequest{Region: "syd", Roles: []string{RoleEdge}, Uses: 9})
	unknown := newToken(a.authority.cert)
	wrong, _ := ParseToken(good.Token)
	foreign := wrong
	foreign.Authority[0] ^= 1
	wrong.Secret[3] ^= 1
	k.add(2 * time.Minute)
	used := a.token(t, api.CreateJoinTokenRequest{})
	if _, err := Join(t.Context(), JoinConfig{Address: a.at, Token: used.Token, Dir: t.TempDir(), Name: "u", now: k.now}); err != nil {
		t.Fatal(err)
	}
	busy := t.TempDir()
	if err := os.Mkdir(filepath.Join(busy, "nats"), 0o700); err != nil {
		t.Fatal(err)
	}
	state, plain := answers(t, a.ServerTLS()), answers(t, nil)
	for name, tc := range map[string]struct {
		cfg  JoinConfig
		want string
		code string
	}{
		"no token":         {JoinConfig{}, "without a token", api.CodeInvalid},
		"not a token":      {JoinConfig{Token: "hello"}, "does not begin with perigee1-", api.CodeInvalid},
		"half a token":     {JoinConfig{Token: good.Token[:60]}, "missing or changed", api.CodeInvalid},
		"unknown":          {JoinConfig{Token: unknown.String()}, "does not know this join token", api.CodeForbidden},
		"wrong secret":     {JoinConfig{Token: wrong.String()}, "does not know this join token", api.CodeForbidden},
		"expired":          {JoinConfig{Token: short.Token}, "expired on", api.CodeForbidden},
		"revoked":          {JoinConfig{Token: revoked.Token}, "was revoked", api.CodeForbidden},
		"used":             {JoinConfig{Token: used.Token}, "was used already, by u", api.CodeForbidden},
		"another cloud's":  {JoinConfig{Token: foreign.String()}, "not of the cloud that the token is for", api.CodeForbidden},
		"name taken":       {JoinConfig{Token: good.Token, Name: "b"}, `there is a node "b" already, in region fra`, api.CodeNameTaken},
		"first one's name": {JoinConfig{Token: good.Token, Name: "a"}, `there is a node "a" already`, api.CodeNameTaken},
		"other region":     {JoinConfig{Token: edge.Token, Region: "fra"}, `for region "syd", not "fra"`, api.CodeForbidden},
		"other roles":      {JoinConfig{Token: edge.Token, Roles: []string{RoleState}}, "for the roles edge, not state", api.CodeForbidden},
		"bad role":         {JoinConfig{Token: good.Token, Roles: []string{"king"}}, `cannot use "king" as role`, api.CodeInvalid},
		"bad region":       {JoinConfig{Token: good.Token, Region: "FRA"}, `cannot use "FRA" as region`, api.CodeInvalid},
		"bad name":         {JoinConfig{Token: good.Token, Name: "Not A Name"}, "as node name", api.CodeInvalid},
		"reserved name":    {JoinConfig{Token: good.Token, Name: "tokens"}, "as node name", api.CodeInvalid},
		"bad own address":  {JoinConfig{Token: good.Token, Advertise: "a b"}, "as address", api.CodeInvalid},
		"used directory":   {JoinConfig{Token: good.Token, Dir: busy}, "data directory of a node already", api.CodeConflict},
		"a URL":            {JoinConfig{Token: good.Token, Address: "http://127.0.0.1"}, "want HOST or HOST:PORT", api.CodeInvalid},
		"a URL with port":  {JoinConfig{Token: good.Token, Address: "https://127.0.0.1:4281/"}, "want HOST or HOST:PORT", api.CodeInvalid},
		"no such port":     {JoinConfig{Token: good.Token, Address: "127.0.0.1:99999"}, "want HOST or HOST:PORT", api.CodeInvalid},
		"nobody there":     {JoinConfig{Token: good.Token, Address: "127.0.0.1:1"}, "connection refused", api.CodeUnreachable},
		"the state's port": {JoinConfig{Token: good.Token, Address: state}, "that port of the node is not for joins", api.CodeUnreachable},
		"no TLS there":     {JoinConfig{Token: good.Token, Address: plain}, "is no node, or another port of one", api.CodeUnreachable},
		"clock ahead":      {JoinConfig{Token: good.Token, now: func() time.Time { return k.now().Add(3 * time.Hour) }}, "clocks differ by 3h0m", api.CodePrecondition},
		"clock behind":     {JoinConfig{Token: good.Token, now: func() time.Time { return k.now().Add(-3 * time.Hour) }}, "not valid yet: clocks differ by", ""},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := tc.cfg
			cfg.Dir, cfg.Name, cfg.Address = cmp.Or(cfg.Dir, t.TempDir()), cmp.Or(cfg.Name, "n"), cmp.Or(cfg.Address, a.at)
			if cfg.now == nil {
				cfg.now = k.now
			}
			a.limit.total, a.limit.fails = 0, map[string]int{} // as if they came one by one
			_, err := Join(t.Context(), cfg)
			wantError(t, err, tc.want)
			t.Log(err)
			if tc.code != "" && !api.IsCode(err, tc.code) {
				t.Errorf("the error is not %s", tc.code)
			}
			for _, name := range []string{homeDir, joiningDir} {
				if _, err := os.Stat(filepath.Join(cfg.Dir, name)); err == nil {
					t.Errorf("%s was made", name)
				}
			}
		})
	}
	if list, _ := a.ListTokens(); len(list) != 6 { // and b's own
		t.Errorf("tokens: %+v", list)
	} else if i := indexToken(list, good.ID); list[i].UsesLeft != 50 {
		t.Errorf("refused joins used the token: %+v", list[i])
	}
	if _, ok := a.Node("n"); ok {
		t.Error("a refused node is there")
	}
}

// answers listens with TLS, or says hello without, and returns where.
func answers(t *testing.T, cfg *tls.Config) string {
	t.Helper()
	l := listen(t)
	t.Cleanup(func() { l.Close() })
	go func() { // ends with the listener
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if cfg != nil {
				_ = tls.Server(conn, cfg).Handshake()
			} else {
				_, _ = conn.Write([]byte("220 hello\r\n"))
			}
			conn.Close()
		}
	}()
	return l.Addr().String()
}

func indexToken(list []api.JoinToken, id string) int {
	for i, tok := range list {
		if tok.ID == id {
			return i
		}
	}
	return -1
}

// TestStolenToken presents one single-use token to two nodes at the same moment.
func TestStolenToken(t *testing.T) {
	cl := newCloud(t)
	a := cl.found(t, Config{})
	b := cl.add(t, a, "b", "fra")
	for round := range 8 {
		tok := a.token(t, api.CreateJoinTokenRequest{})
		var won atomic.Int32
		var wg sync.WaitGroup
		for i, at := range []string{a.at, b.at, a.at, b.at} {
			wg.Go(func() {
				_, err := Join(t.Context(), JoinConfig{Address: at, Token: tok.Token, Dir: t.TempDir(), Name: fmt.Sprintf("n%d-%d", round, i)})
				if err == nil {
					won.Add(1)
				} else if !strings.Contains(err.Error(), "was used already") {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 {
			t.Fatalf("round %d: %d nodes joined with a token for one", round, won.Load())
		}
		a.limit.turnNow()
		b.limit.turnNow()
	}
	eventually(t, "ten nodes", func() bool { return len(a.Nodes()) == 10 && len(b.Nodes()) == 10 })
	numbers := map[uint32]bool{}
	for _, n := range a.Nodes() {
		numbers[n.Number] = true
	}
	if len(numbers) != 10 {
		t.Errorf("numbers are not unique: %v", numbers)
	}
}

func (l *limiter) turnNow() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.began = time.Time{}
}

// TestOneNameTwice has two servers join under one name at the same moment.
func TestOneNameTwice(t *testing.T) {
	cl := newCloud(t)
	a := cl.found(t, Config{})
	b := cl.add(t, a, "b", "fra")
	tok := a.token(t, api.CreateJoinTokenRequest{Uses: 2})
	eventually(t, "b hears of the token", func() bool { _, ok := b.tables.tokens.Get(tok.ID); return ok })
	errs := make(chan error, 2)
	for _, at := range []string{a.at, b.at} {
		go func() {
			_, err := Join(t.Context(), JoinConfig{Address: at, Token: tok.Token, Dir: t.TempDir(), Name: "twin"})
			errs <- err
		}()
	}
	one, two := <-errs, <-errs
	if (one == nil) == (two == nil) {
		t.Fatalf("both or none joined: %v, %v", one, two)
	}
	wantError(t, errors.Join(one, two), `there is a node "twin" already`)
}

// TestManInTheMiddle: who answers with another authority gets nothing.
func TestManInTheMiddle(t *testing.T) {
	a := newCloud(t).found(t, Config{})
	tok := a.token(t, api.CreateJoinTokenRequest{})
	other, err := Open(Config{Dir: t.TempDir(), Name: "a", Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	for name, pair := range map[string]tls.Certificate{
		"another authority": *other.cert.Load(),
		// The real authority's certificate is public: it is shown, but signed nothing.
		"the real one beside it": {Certificate: [][]byte{other.cert.Load().Leaf.Raw, a.authority.cert.Raw}, PrivateKey: other.cert.Load().PrivateKey},
		"the real one alone":     {Certificate: [][]byte{other.cert.Load().Leaf.Raw, other.authority.cert.Raw, a.authority.cert.Raw}, PrivateKey: other.cert.Load().PrivateKey},
	} {
		t.Run(name, func(t *testing.T) {
			var heard atomic.Int32
			thief := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { heard.Add(1) }))
			thief.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
			thief.Config.ErrorLog = slog.NewLogLogger(quiet.Handler(), slog.LevelError)
			thief.StartTLS()
			defer thief.Close()
			thief.TLS.Certificates = []tls.Certificate{pair}
			_, err := Join(t.Context(), JoinConfig{Address: strings.TrimPrefix(thief.URL, "https://"), Token: tok.Token, Dir: t.TempDir(), Name: "n"})
			if err == nil || heard.Load() != 0 {
				t.Errorf("%v, and %d requests were heard", err, heard.Load())
			}
			t.Log(err)
		})
	}
}

// TestReplay: a join request that somebody kept is of no use without its key.
func TestReplay(t *testing.T) {
	a := newCloud(t).found(t, Config{Bundle: shared})
	tok := a.token(t, api.CreateJoinTokenRequest{})
	dir := t.TempDir()
	j := &joiner{JoinConfig: JoinConfig{Address: a.at, Token: tok.Token, Dir: dir, Name: "n", now: time.Now, step: func(string) {}}, work: filepath.Join(dir, joiningDir)}
	j.token, _ = ParseToken(tok.Token)
	if err := errors.Join(os.MkdirAll(j.work, 0o700), j.openKey()); err != nil {
		t.Fatal(err)
	}
	kept, err := j.request("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Join(t.Context(), j.JoinConfig); err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	resp, err := client.Post("https://"+a.at+joinPath, "application/json", bytes.NewReader(kept))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := refusal(resp); resp.StatusCode != http.StatusForbidden {
		t.Errorf("%s: %v", resp.Status, err)
	}
}

func TestBadJoinRequests(t *testing.T) {
	a := newCloud(t).found(t, Config{})
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	for name, tc := range map[string]struct {
		body string
		want int
	}{
		"empty":     {"", http.StatusBadRequest},
		"not JSON":  {"hello", http.StatusBadRequest},
		"wrong":     {`{"token_id":7}`, http.StatusBadRequest},
		"no key":    {`{"token_id":"aaaaaaaa","request":"AAAA"}`, http.StatusBadRequest},
		"oversized": {`{"token_id":"` + strings.Repeat("x", maxJoinRequest) + `"}`, http.StatusRequestEntityTooLarge},
	} {
		resp, err := client.Post("https://"+a.at+joinPath, "application/json", strings.NewReader(tc.body))
		if err != nil {
			t.Fatal(err)
		}
		if err := refusal(resp); resp.StatusCode != tc.want {
			t.Errorf("%s: %s %v", name, resp.Status, err)
		}
		resp.Body.Close()
	}
	for _, path := range []string{"/v1/apps", helloPath, renewPath, "/"} {
		resp, err := client.Get("https://" + a.at + path)
		if err != nil {
			t.Fatal(err)
		}
		if resp.Body.Close(); resp.StatusCode != http.StatusForbidden {
			t.Errorf("%s without a certificate: %s", path, resp.Status)
		}
	}
	for range limitPerHost {
		a.limit.failed("127.0.0.1:9")
	}
	resp, err := client.Post("https://"+a.at+joinPath, "application/json", strings.NewReader(""))
	if err != nil {
		t.Fatal(err)
	}
	if resp.Body.Close(); resp.StatusCode != http.StatusTooManyRequests {
		t.Errorf("after many failures: %s", resp.Status)
	}
}

// TestJoinIsNotShutOut: neither many slow senders nor many failures keep a
// server out that has a token.
func TestJoinIsNotShutOut(t *testing.T) {
	a := newCloud(t).found(t, Config{})
	for range limitAtOnce + 1 {
		c, err := tls.Dial("tcp", a.at, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, "POST "+joinPath+" HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(200 * time.Millisecond) // they are let in meanwhile
	tok := a.token(t, api.CreateJoinTokenRequest{Uses: 2})
	if _, err := Join(t.Context(), JoinConfig{Address: a.at, Token: tok.Token, Dir: t.TempDir(), Name: "b"}); err != nil {
		t.Error("slow senders shut it out:", err)
	}
	for i := range limitAll {
		a.limit.failed(fmt.Sprintf("192.0.2.%d:9", i%250))
	}
	if _, err := Join(t.Context(), JoinConfig{Address: a.at, Token: tok.Token, Dir: t.TempDir(), Name: "c"}); err != nil {
		t.Error("failures of others shut it out:", err)
	}
	unknown := newToken(a.authority.cert)
	_, err := Join(t.Context(), JoinConfig{Address: a.at, Token: unknown.String(), Dir: t.TempDir(), Name: "d"})
	wantError(t, err, "too many joins failed")
}

const childEnv = "PERIGEE_CLUSTER_JOIN_CHILD"

// joinAndDie is a process that joins and is killed at a step.
func joinAndDie() {
	part := strings.Split(os.Getenv(childEnv), "|")
	_, err := Join(context.Background(), JoinConfig{Address: part[0], Token: part[1], Dir: part[2], Name: part[3], step: func(name string) {
		if name == part[4] {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}})
	fmt.Println("not killed:", err)
	os.Exit(1)
}

// TestKilledWhileJoining kills the joining server at every step and repeats the
// join: it succeeds, and uses the token once.
func TestKilledWhileJoining(t *testing.T) {
	cl := newCloud(t)
	a := cl.found(t, Config{Bundle: shared})
	for i, step := range []string{"key", "send", "answer", "asked", "written", "renamed"} {
		t.Run(step, func(t *testing.T) {
			tok, dir, name := a.token(t, api.CreateJoinTokenRequest{Uses: 2}), t.TempDir(), fmt.Sprintf("n%d", i)
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), childEnv+"="+strings.Join([]string{a.at, tok.Token, dir, name, step}, "|"))
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("the child was not killed: %v\n%s", err, out)
			}
			if step != "renamed" { // there all is done but the moving of shared files, which Open does
				_, err := Open(Config{Dir: dir, Name: name, Logger: quiet})
				wantError(t, err, "a join was begun here and did not end")
				if _, err := Join(t.Context(), JoinConfig{Address: a.at, Token: tok.Token, Dir: dir, Name: name}); err != nil {
					t.Fatal(err)
				}
			}
			c, err := Open(Config{Dir: dir, Logger: quiet})
			if err != nil {
				t.Fatal(err)
			}
			checkHome(t, dir, true)
			if b, err := os.ReadFile(filepath.Join(dir, "secrets.key")); string(b) != "s3cret" {
				t.Errorf("shared file: %q, %v", b, err)
			}
			n, ok := a.Node(name)
			if !ok || n.Number != c.Self().Number || n.Serial != serialOf(c.cert.Load().Leaf) {
				t.Errorf("a knows %+v, the node is %+v", n, c.Self())
			}
			if e, _ := a.tables.tokens.Get(tok.ID); e.Value.Left != 1 {
				t.Errorf("%d uses are left, want 1", e.Value.Left)
			}
		})
	}
}

// TestServerKilledWhileJoining: the token is used, and the record not written.
func TestServerKilledWhileJoining(t *testing.T) {
	a := newCloud(t).found(t, Config{})
	tok, dir := a.token(t, api.CreateJoinTokenRequest{}), t.TempDir()
	cfg := JoinConfig{Address: a.at, Token: tok.Token, Dir: dir, Name: "n", step: func(step string) {
		if step == "send" {
			panic("killed")
		}
	}}
	func() {
		defer func() { _ = recover() }()
		_, _ = Join(t.Context(), cfg)
	}()
	b, err := os.ReadFile(filepath.Join(dir, joiningDir, nodeFile))
	if err != nil {
		t.Fatal(err)
	}
	_, key, err := readPEM(b)
	if err != nil {
		t.Fatal(err)
	}
	hash, _ := keyHash(&key.PublicKey)
	parsed, _ := ParseToken(tok.Token)
	if err := a.useToken(t.Context(), a.tables, parsed, hash, "n"); err != nil {
		t.Fatal(err)
	}
	if _, err := a.tables.claimNumber(t.Context(), "n", 0); err != nil {
		t.Fatal(err)
	}
	cfg.step = nil
	if _, err := Join(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if _, err := Join(t.Context(), cfg); err == nil {
		t.Error("joined a directory that has a node")
	}
}

// TestSharedFileNames: a join writes nothing outside the data directory, and
// nothing of ours.
func TestSharedFileNames(t *testing.T) {
	for _, name := range []string{"../x", "/etc/x", "a/../../x", "cluster/ca.key", "cluster", "cluster.new/x", ".", "", "a//b", `a\b`, "a/."} {
		if err := checkFiles(map[string][]byte{name: nil}); err == nil {
			t.Errorf("%q was taken", name)
		}
	}
	for _, name := range []string{"token", "ca/root.key", "certificates.key"} {
		if err := checkFiles(map[string][]byte{name: nil}); err != nil {
			t.Error(err)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add("")
	f.Add("perigee1-aaaaaaaa-b-c")
	tok := Token{ID: "abcdefgh", Authority: sha256.Sum256(nil)}
	f.Add(tok.String())
	f.Add(tok.String() + "a")
	f.Fuzz(func(t *testing.T, s string) {
		tok, err := ParseToken(s)
		if err != nil {
			if strings.Contains(err.Error(), s) && len(s) > 20 {
				t.Errorf("the error shows the token: %v", err)
			}
			return
		}
		if tok.String() != strings.TrimSpace(s) {
			t.Errorf("%q is read as %q", s, tok)
		}
	})
}

func FuzzRequestKey(f *testing.F) {
	key, err := newKey()
	if err != nil {
		f.Fatal(err)
	}
	good, err := request("n", key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, der []byte) {
		if pub, err := requestKey(der); err == nil && pub == nil {
			t.Error("neither key nor error")
		}
	})
}
