package cluster

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/internal/durable"
	"golang.org/x/sys/unix"
)

// JoinConfig says where and as what a server joins a cluster.
type JoinConfig struct {
	// Address of any node of the cluster: a host, with the port of its peers
	// unless that is 4281.
	Address string
	// Token is what perigee node token printed.
	Token string
	// Dir is the new node's data directory, without a node in it.
	Dir string
	// Name of the node. Default: the host's name.
	Name string
	// Region, Roles, Advertise (the host at which other nodes reach this one) and
	// the ports are as in [Config]. Default of Region and Roles: what the token
	// says; of Advertise: the address from which this server reaches Address.
	Region                                        string
	Roles                                         []string
	Advertise                                     string
	PeerPort, StatePort, RoutePort, WireGuardPort int
	// WireGuardKey is the mesh's public key. It may be announced later.
	WireGuardKey string
	// Version of the program.
	Version string

	now  func() time.Time  // tests shift it
	step func(name string) // tests kill here
}

// Join makes the data directory that of a node of the cluster at the address,
// and returns when all of it is on disk; then the node can be opened with
// [Open]. What was begun and cut off is completed by the same call again: it
// uses the token once. Before the token is sent, the other side has proved to be
// of the cluster that the token is for.
func Join(ctx context.Context, cfg JoinConfig) (Node, error) {
	tok, err := ParseToken(cfg.Token)
	if err != nil {
		return Node{}, err
	}
	if err := cfg.defaults(); err != nil {
		return Node{}, api.Errorf(api.CodeInvalid, "%v", err)
	}
	if cfg.Address, err = joinAddress(cfg.Address); err != nil {
		return Node{}, err
	}
	j := &joiner{JoinConfig: cfg, token: tok, work: filepath.Join(cfg.Dir, joiningDir)}
	n, err := j.run(ctx)
	if err != nil {
		return n, fmt.Errorf("cannot join the cloud at %s: %w", cfg.Address, err)
	}
	return n, nil
}

func (c *JoinConfig) defaults() error {
	if c.Dir == "" {
		return errors.New("cannot join a cloud: no data directory is given")
	}
	if c.Name == "" {
		host, _ := os.Hostname()
		c.Name, _, _ = strings.Cut(strings.ToLower(host), ".")
	}
	if c.now == nil {
		c.now = time.Now
	}
	if c.step == nil {
		c.step = func(string) {}
	}
	said := c.self("127.0.0.1")
	said.Region = cmp.Or(said.Region, "local")
	if len(said.Roles) == 0 {
		said.Roles = Roles()
	}
	return said.check()
}

// joinAddress reads HOST or HOST:PORT.
func joinAddress(s string) (string, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		host, port = strings.Trim(s, "[]"), fmt.Sprint(DefaultPeerPort)
	}
	n, badPort := strconv.ParseUint(port, 10, 16)
	if badPort != nil || n == 0 || net.ParseIP(host) == nil && !hostName.MatchString(host) {
		return "", api.Errorf(api.CodeInvalid, "cannot use %q as the address of a node: want HOST or HOST:PORT, without a scheme or a path", api.Clip(s)).
			WithHint(fmt.Sprintf("for example 203.0.113.7, or iad1.example.com:%d", DefaultPeerPort))
	}
	return net.JoinHostPort(host, port), nil
}

// self is what the node says of itself.
func (c *JoinConfig) self(address string) Node {
	return Node{Name: c.Name, Region: c.Region, Roles: c.Roles, Address: cmp.Or(c.Advertise, address),
		PeerPort: cmp.Or(c.PeerPort, DefaultPeerPort), StatePort: cmp.Or(c.StatePort, DefaultStatePort), RoutePort: cmp.Or(c.RoutePort, DefaultRoutePort),
		WireGuardPort: cmp.Or(c.WireGuardPort, DefaultWireGuardPort), WireGuardKey: c.WireGuardKey, Version: c.Version}
}

// joiner is one join.
type joiner struct {
	JoinConfig
	token Token
	work  string // joiningDir
	key   *ecdsa.PrivateKey
	fresh bool              // no earlier join has left the key
	sent  bool              // the token may have been used
	ca    *x509.Certificate // of the other side, once it proved it
}

func (j *joiner) run(ctx context.Context) (Node, error) {
	if err := j.unused(); err != nil {
		return Node{}, err
	}
	if err := os.MkdirAll(j.work, 0o700); err != nil {
		return Node{}, err
	}
	unlock, err := lockDir(j.work)
	if err != nil {
		return Node{}, err
	}
	defer unlock()
	if err := j.unused(); err != nil { // another join may have ended meanwhile
		_ = os.RemoveAll(j.work)
		return Node{}, err
	}
	if err := j.openKey(); err != nil {
		return Node{}, err
	}
	j.step("key")
	resp, err := j.ask(ctx)
	if err != nil {
		j.forget(err)
		return Node{}, err
	}
	j.step("asked")
	return resp.Self, j.keep(resp)
}

// forget removes the key of a join that came to nothing for sure: it was never
// sent, or was refused. Otherwise the key is what completes it.
func (j *joiner) forget(err error) {
	var refused *api.Error
	if j.fresh && (!j.sent || errors.As(err, &refused) && refused.Status < http.StatusInternalServerError) {
		_ = os.RemoveAll(j.work) // it is taken up again otherwise
	}
}

// unused refuses a directory in which a node lives.
func (j *joiner) unused() error {
	for _, name := range []string{homeDir, "nats", "state", "machines"} {
		_, err := os.Stat(filepath.Join(j.Dir, name))
		if err == nil {
			return api.Errorf(api.CodeConflict, "%s is the data directory of a node already", j.Dir).
				WithHint("choose another --data, or move it away if that node is not wanted any more")
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// lockDir keeps two joins out of one directory.
func lockDir(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		d.Close()
		return nil, api.Errorf(api.CodeConflict, "another join is under way in this data directory")
	}
	return func() { d.Close() }, nil
}

// openKey reads the key that a join which was cut off has left, or makes one. It
// never leaves this server.
func (j *joiner) openKey() error {
	path := filepath.Join(j.work, nodeFile)
	b, err := os.ReadFile(path)
	if err == nil {
		if _, j.key, err = readPEM(b); err == nil && j.key != nil {
			return nil
		}
		return fmt.Errorf("cannot read %s, which an earlier join has left; remove %s", path, j.work)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	j.fresh = true
	if j.key, err = newKey(); err != nil {
		return err
	}
	own, err := keyPEM(j.key)
	if err != nil {
		return err
	}
	return durable.WriteFile(path, 0o600, own)
}

// ask sends the request; a node that does not certify names those that do.
func (j *joiner) ask(ctx context.Context) (*joinResponse, error) {
	resp, others, err := j.askAt(ctx, j.Address)
	for _, addr := range others {
		if resp, _, err = j.askAt(ctx, addr); err == nil {
			break
		}
		err = fmt.Errorf("at %s: %w", addr, err)
	}
	if err == nil && resp == nil {
		err = errors.New("no node that certifies is known there")
	}
	return resp, err
}

const maxJoinResponse = 32 << 20

func (j *joiner) askAt(ctx context.Context, addr string) (*joinResponse, []string, error) {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout+dialTimeout)
	defer cancel()
	conn, err := j.dial(ctx, addr)
	if err != nil {
		return nil, nil, err
	}
	defer conn.Close()
	local, _, _ := net.SplitHostPort(conn.LocalAddr().String())
	body, err := j.request(local)
	if err != nil {
		return nil, nil, err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialTLSContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+addr+joinPath, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	j.step("send")
	j.sent = true
	resp, err := client.Do(req)
	if err != nil {
		return nil, nil, lost(err)
	}
	defer resp.Body.Close()
	j.step("answer")
	return readAnswer(resp)
}

func readAnswer(resp *http.Response) (*joinResponse, []string, error) {
	if resp.StatusCode == http.StatusMisdirectedRequest {
		var e elsewhere
		if err := json.NewDecoder(io.LimitReader(resp.Body, maxRefusal)).Decode(&e); err != nil || len(e.Try) == 0 || len(e.Try) > 100 {
			return nil, nil, errors.New("the node there does not certify, and names none that does")
		}
		return nil, e.Try, nil
	}
	if resp.StatusCode != http.StatusOK {
		return nil, nil, refusal(resp)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxJoinResponse+1))
	if err != nil || len(b) > maxJoinResponse {
		return nil, nil, errors.Join(errors.New("cannot read the answer"), err)
	}
	r := &joinResponse{}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, nil, fmt.Errorf("cannot read the answer: %w", err)
	}
	return r, nil, nil
}

// dial connects and lets the other side prove who it is.
func (j *joiner) dial(ctx context.Context, addr string) (net.Conn, error) {
	pair, err := j.showKey()
	if err != nil {
		return nil, err
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("cannot use address %q: %w", api.Clip(addr), err)
	}
	const speak = "http/1.1"
	d := &tls.Dialer{NetDialer: &net.Dialer{Timeout: 5 * time.Second}, Config: &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: host, NextProtos: []string{speak},
		// Not Certificates: they would only be shown to who knows their issuer.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil },
		InsecureSkipVerify:   true, VerifyConnection: j.recognize, Time: j.now, // its authority is known by the token
	}}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, unanswered(err)
	}
	// The state's port of a node proves the same, and takes no joins.
	if conn.(*tls.Conn).ConnectionState().NegotiatedProtocol != speak {
		conn.Close()
		return nil, noPeer("that port of the node is not for joins")
	}
	return conn, nil
}

// unanswered says what to look at where no node answers.
func unanswered(err error) error {
	var at *net.OpError
	var record tls.RecordHeaderError
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &at) && at.Op == "dial":
		return api.Errorf(api.CodeUnreachable, "no node answers there: %v", at.Err).
			WithHint(fmt.Sprintf("check the address, that a node runs there, and that its port %d/tcp (or its --peer-port) is open to this server", DefaultPeerPort))
	case at != nil, errors.As(err, &record), errors.Is(err, io.EOF), errors.Is(err, context.DeadlineExceeded):
		return noPeer("what answers there is no node, or another port of one: %v", err)
	}
	return err
}

func noPeer(format string, a ...any) error {
	return api.Errorf(api.CodeUnreachable, format, a...).
		WithHint(fmt.Sprintf("a node takes joins at its port %d, unless it was started with another --peer-port", DefaultPeerPort))
}

// lost says what to do when nobody knows whether the node was taken in.
func lost(err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	if u := (*url.Error)(nil); errors.As(err, &u) {
		err = u.Err
	}
	return api.Errorf(api.CodeUnreachable, "no answer came: %v", err).WithHint("repeat the same command: if the node was taken in, that completes it")
}

// showKey is a certificate that proves to the other side, in the handshake, that
// this server holds the key.
func (j *joiner) showKey() (tls.Certificate, error) {
	t := &x509.Certificate{Subject: pkix.Name{CommonName: j.Name}, NotBefore: j.now().Add(-backdate), NotAfter: j.now().Add(backdate)}
	cert, err := sign(t, t, &j.key.PublicKey, j.key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: j.key, Leaf: cert}, nil
}

// recognize lets nobody but a node of the token's cloud have the token.
func (j *joiner) recognize(s tls.ConnectionState) error {
	i := slices.IndexFunc(s.PeerCertificates, func(c *x509.Certificate) bool { return sha256.Sum256(c.Raw) == j.token.Authority })
	if i < 1 {
		return api.Errorf(api.CodeForbidden, "who answers there is not of the cloud that the token is for; the token was not sent").
			WithHint(fmt.Sprintf("check the address, its port (%d unless the node has another --peer-port), and that nobody stands in between", DefaultPeerPort))
	}
	j.ca = s.PeerCertificates[i]
	return withPool(j.ca, nil).verify(s.PeerCertificates[0], j.now())
}

func (j *joiner) request(local string) ([]byte, error) {
	csr, err := request(j.Name, j.key)
	if err != nil {
		return nil, err
	}
	return json.Marshal(joinRequest{TokenID: j.token.ID, Secret: j.token.Secret[:], Request: csr, Node: j.self(local), Time: j.now()})
}

// keep writes what came and makes it the node's directory, at once.
func (j *joiner) keep(r *joinResponse) error {
	files, id, err := j.files(r)
	if err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(j.work, sharedDir)); err != nil { // of an answer before
		return err
	}
	if err := writeFiles(j.work, files); err != nil {
		return err
	}
	if err := writeFiles(filepath.Join(j.work, sharedDir), r.Shared); err != nil {
		return err
	}
	if err := errors.Join(writeJSON(filepath.Join(j.work, nodesFile), r.Nodes), writeJSON(filepath.Join(j.work, identityFile), id)); err != nil {
		return err
	}
	j.step("written")
	if err := durable.Rename(j.work, filepath.Join(j.Dir, homeDir)); err != nil {
		return err
	}
	j.step("renamed")
	return placeShared(j.Dir)
}

// files checks the answer: it comes from a proven node, but that may have another
// clock or another version.
func (j *joiner) files(r *joinResponse) (map[string][]byte, identity, error) {
	cert, err := x509.ParseCertificate(r.Certificate)
	if err != nil {
		return nil, identity{}, fmt.Errorf("cannot read the certificate: %w", err)
	}
	if err := withPool(j.ca, nil).verify(cert, j.now()); err != nil {
		return nil, identity{}, err
	}
	if !j.key.PublicKey.Equal(cert.PublicKey) || cert.Subject.CommonName != j.Name || r.Self.Name != j.Name || r.Self.Number == 0 {
		return nil, identity{}, errors.New("the answer is for another node")
	}
	if err := errors.Join(r.Self.check(), checkFiles(r.Shared)); err != nil {
		return nil, identity{}, err
	}
	own, err := keyPEM(j.key)
	if err != nil {
		return nil, identity{}, err
	}
	files := map[string][]byte{authorityFile: certPEM(j.ca), nodeFile: append(own, certPEM(cert)...)}
	if len(r.AuthorityKey) > 0 {
		files[signerFile] = r.AuthorityKey
	}
	if r.Shared == nil {
		r.Shared = map[string][]byte{}
	}
	r.Shared["name"] = []byte(j.Name + "\n")
	return files, identity{format, r.Cluster, r.Self, r.Self.Roles}, nil
}
