package cluster

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/perigee-run/perigee/catalog"
	"github.com/perigee-run/perigee/internal/durable"
)

// ErrRemoved means that this node was removed from the cluster.
var ErrRemoved = errors.New("this node was removed from the cloud")

// Cluster is this node's place among the others. Its methods may be called from
// any goroutine. Before [Cluster.Attach] it knows the nodes as it last heard of
// them.
type Cluster struct {
	cfg       Config
	log       *slog.Logger
	home      string
	id        string
	granted   []string
	authority *authority
	cert      atomic.Pointer[tls.Certificate] // this node's
	limit     *limiter
	gone      chan struct{} // closed when this node learns that it was removed
	once      sync.Once     // closes gone
	doubt     chan struct{} // holds a token when some node says that this one was removed

	renewing sync.Mutex // held while the certificate is renewed
	saving   sync.Mutex // held while files in home are written; taken before mu

	mu      sync.RWMutex // guards what follows
	self    Node         // as this node says it is
	known   map[string]Node
	tables  *tables // nil until Attach
	catalog *catalog.Catalog
	clients map[string]*peerClient
}

// Open reads who this node is. In a directory without a cluster it makes a new
// one, of this node alone.
func Open(cfg Config) (*Cluster, error) {
	if err := cfg.defaults(); err != nil {
		return nil, err
	}
	if err := prepare(cfg); err != nil {
		return nil, fmt.Errorf("cannot read who this node is in %s: %w", cfg.Dir, err)
	}
	c := &Cluster{cfg: cfg, log: cfg.Logger, home: filepath.Join(cfg.Dir, homeDir), clients: map[string]*peerClient{},
		limit: newLimiter(cfg.now), gone: make(chan struct{}), doubt: make(chan struct{}, 1)}
	if err := c.load(); err != nil {
		return nil, fmt.Errorf("cannot read who this node is in %s: %w", cfg.Dir, err)
	}
	return c, nil
}

// prepare brings the directory into a state that load can read.
func prepare(cfg Config) error {
	_, err := os.Stat(filepath.Join(cfg.Dir, homeDir))
	if err == nil {
		return placeShared(cfg.Dir)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if _, err := os.Stat(filepath.Join(cfg.Dir, joiningDir)); err == nil {
		return fmt.Errorf("a join was begun here and did not end; repeat it with perigeed join, or remove %s to make a cloud of its own",
			filepath.Join(cfg.Dir, joiningDir))
	}
	return found(cfg)
}

// found makes a cluster of one node.
func found(cfg Config) error {
	self := cfg.fill(Node{Number: randomNumber(), Member: true, JoinedAt: cfg.now().UTC()})
	if err := self.check(); err != nil {
		return err
	}
	id := randomID() + randomID()
	a, err := newAuthority(id, cfg.now())
	if err != nil {
		return err
	}
	key, err := newKey()
	if err != nil {
		return err
	}
	cert, err := a.certify(self.Name, &key.PublicKey, cfg.now())
	if err != nil {
		return err
	}
	if self.KeyHash, err = keyHash(&key.PublicKey); err != nil {
		return err
	}
	self.Serial, self.CertifiedAt = serialOf(cert), cert.NotBefore
	signer, err := keyPEM(a.key)
	if err != nil {
		return err
	}
	own, err := keyPEM(key)
	if err != nil {
		return err
	}
	dir := filepath.Join(cfg.Dir, newDir)
	if err := makeDir(dir); err != nil {
		return err
	}
	files := map[string][]byte{authorityFile: certPEM(a.cert), signerFile: signer, nodeFile: append(certPEM(cert), own...)}
	if err := writeFiles(dir, files); err != nil {
		return err
	}
	if err := writeJSON(filepath.Join(dir, identityFile), identity{format, id, self, Roles()}); err != nil {
		return err
	}
	return durable.Rename(dir, filepath.Join(cfg.Dir, homeDir))
}

// randomNumber is of 32 bits, not zero: zero is no node's.
func randomNumber() uint32 { return 1 + rand.Uint32N(1<<32-1) }

func (c *Cluster) load() error {
	id, err := readIdentity(c.home)
	if err != nil {
		return err
	}
	if c.authority, err = readAuthority(c.home); err != nil {
		return err
	}
	if err := c.loadCertificate(); err != nil {
		return err
	}
	if c.known, err = readNodes(c.home); err != nil {
		return err
	}
	c.id, c.granted = id.Cluster, id.Granted
	return c.become(id.Self)
}

func (c *Cluster) loadCertificate() error {
	pair, err := tls.LoadX509KeyPair(filepath.Join(c.home, nodeFile), filepath.Join(c.home, nodeFile))
	if err != nil {
		return fmt.Errorf("cannot read the node's certificate: %w; restore %s from a backup", err, c.home)
	}
	if err := c.authority.verify(pair.Leaf, c.cfg.now()); err != nil {
		return fmt.Errorf("cannot use the node's certificate: %w", err)
	}
	c.useCertificate(pair)
	return nil
}

// useCertificate shows the authority's certificate with it: who joins knows
// only its hash.
func (c *Cluster) useCertificate(pair tls.Certificate) {
	pair.Certificate = [][]byte{pair.Leaf.Raw, c.authority.cert.Raw}
	c.cert.Store(&pair)
}

// become takes what the configuration says anew, and keeps it.
func (c *Cluster) become(was Node) error {
	if c.cfg.Name != "" && c.cfg.Name != was.Name {
		return fmt.Errorf("cannot use %q as node name: the node here is %q; leave --name out, or choose another --data", c.cfg.Name, was.Name)
	}
	self := c.cfg.fill(was)
	if err := self.check(); err != nil {
		return err
	}
	for _, r := range self.Roles {
		if !slices.Contains(c.granted, r) {
			return fmt.Errorf("cannot take role %q: this node joined with the roles %s; remove it and join again with --roles", r, strings.Join(c.granted, ", "))
		}
	}
	c.self = self
	return c.saveSelf()
}

// saveSelf writes cluster.json.
func (c *Cluster) saveSelf() error {
	c.saving.Lock()
	defer c.saving.Unlock()
	c.mu.RLock()
	id := identity{format, c.id, c.self, c.granted}
	c.mu.RUnlock()
	return writeJSON(filepath.Join(c.home, identityFile), id)
}

// ID is the cluster's, the same on all nodes.
func (c *Cluster) ID() string { return c.id }

// Certifies reports whether this node has the authority's key.
func (c *Cluster) Certifies() bool { return c.authority.key != nil }

// Removed is closed when this node learns that it was removed.
func (c *Cluster) Removed() <-chan struct{} { return c.gone }

func (c *Cluster) learnRemoved() { c.once.Do(func() { close(c.gone) }) }

// Self is this node's record, with what it says of itself now.
func (c *Cluster) Self() Node {
	c.mu.RLock()
	self := c.self
	c.mu.RUnlock()
	if n, ok := c.record(self.Name); ok && n.KeyHash == self.KeyHash {
		n.says(self)
		return n
	}
	return self
}

// Nodes are the records of all nodes that were not removed, by name, this
// node's among them.
func (c *Cluster) Nodes() []Node {
	all := c.records()
	if self := c.Self(); all[self.Name].Name == "" {
		all[self.Name] = self
	}
	return slices.DeleteFunc(sorted(all), func(n Node) bool { return n.Removed })
}

// Node is the record of a node that was not removed.
func (c *Cluster) Node(name string) (Node, bool) {
	if self := c.Self(); self.Name == name {
		return self, !self.Removed
	}
	n, ok := c.record(name)
	return n, ok && !n.Removed
}

// RemovedNames are the nodes that were removed, where no other has the name now.
func (c *Cluster) RemovedNames() (out []string) {
	for name, n := range c.records() {
		if n.Removed {
			out = append(out, name)
		}
	}
	return out
}

func sorted(all map[string]Node) []Node {
	return slices.SortedFunc(maps.Values(all), func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
}
