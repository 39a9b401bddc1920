package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"strconv"
	"time"

	"github.com/perigee-run/perigee/catalog"
)

// tables are the records that all nodes share. Removed nodes stay in nodes, so
// that their certificates are refused.
type tables struct {
	nodes   *catalog.Table[Node]
	tokens  *catalog.Table[tokenRecord]
	numbers *catalog.Table[owner] // by node number
	leaving *catalog.Table[leavers]
}

// owner is who has a node number.
type owner struct {
	Node string `json:"node"`
}

func openTables(cat *catalog.Catalog) (t *tables, err error) {
	t = &tables{}
	if t.nodes, err = catalog.NewTable[Node](cat, "nodes"); err != nil {
		return nil, err
	}
	if t.tokens, err = catalog.NewTable[tokenRecord](cat, "jointokens"); err != nil {
		return nil, err
	}
	if t.numbers, err = catalog.NewTable[owner](cat, "nodenumbers"); err != nil {
		return nil, err
	}
	t.leaving, err = catalog.NewTable[leavers](cat, "leavers")
	return t, err
}

// errKeep ends a change that has nothing to change.
var errKeep = errors.New("nothing to change")

// changePatience is how long a change waits for what others wrote meanwhile.
const changePatience = 10 * time.Second

// change lets edit alter a copy of the record and writes it, again if somebody
// else wrote first. edit must not alter what the record points to.
func change[T any](ctx context.Context, t *catalog.Table[T], key string, edit func(v *T, there bool) error) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, changePatience)
	defer cancel()
	for pause := time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
		e, ok := t.Get(key)
		v := e.Value
		if err := edit(&v, ok); errors.Is(err, errKeep) {
			return e.Value, nil
		} else if err != nil {
			return v, err
		}
		if ok && reflect.DeepEqual(v, e.Value) {
			return v, nil
		}
		err := write(ctx, t, key, v, e.Revision, ok)
		if err == nil || !errors.Is(err, catalog.ErrConflict) && !errors.Is(err, catalog.ErrExists) {
			return v, err
		}
		select {
		case <-ctx.Done():
			return v, err
		case <-time.After(pause):
		}
	}
}

func write[T any](ctx context.Context, t *catalog.Table[T], key string, v T, rev uint64, there bool) (err error) {
	if there {
		_, err = t.Update(ctx, key, v, rev)
	} else {
		_, err = t.Create(ctx, key, v)
	}
	return err
}

// claimNumber makes sure that a number is the node's. One that another has is
// not given; zero asks for any.
func (t *tables) claimNumber(ctx context.Context, node string, number uint32) (uint32, error) {
	for range 8 {
		want := cmp.Or(number, randomNumber())
		key := strconv.FormatUint(uint64(want), 10)
		_, err := t.numbers.Create(ctx, key, owner{node})
		if err == nil {
			return want, nil
		}
		if !errors.Is(err, catalog.ErrExists) {
			return 0, err
		}
		if e, ok := t.numbers.Get(key); ok && e.Value.Node == node {
			return want, nil
		}
		if number != 0 {
			return 0, fmt.Errorf("node number %d belongs to another node", number)
		}
	}
	return 0, errors.New("cannot find a free node number")
}

// Attach opens the tables in the catalog and writes this node's own record.
// Where the state cannot be reached the record is written later, by [Cluster.Run].
// Its error is [ErrRemoved] if this node was removed: one that has never had the
// state learns that from the others, since the state is closed to it.
func (c *Cluster) Attach(ctx context.Context, cat *catalog.Catalog) error {
	t, err := openTables(cat)
	if err != nil {
		if gone := c.CheckIn(ctx); errors.Is(gone, ErrRemoved) {
			return gone
		}
		return fmt.Errorf("cannot open the nodes' records: %w", err)
	}
	c.mu.Lock()
	c.tables, c.catalog = t, cat
	c.mu.Unlock()
	short, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if err := c.announce(short); errors.Is(err, ErrRemoved) {
		return err
	} else if err != nil {
		c.log.Warn("cannot write this node's record yet", "error", err)
	}
	return nil
}

// Announce changes what this node says of itself: its address, ports, WireGuard
// key, version. It is kept here first, and written to the catalog; if that
// fails, [Cluster.Run] does it later.
func (c *Cluster) Announce(ctx context.Context, edit func(self *Node)) error {
	c.mu.Lock()
	was, next := c.self, c.self
	edit(&next)
	if err := next.check(); err != nil || next.Name != was.Name || next.Number != was.Number {
		c.mu.Unlock()
		return errors.Join(err, errors.New("cannot announce: the node's name and number do not change"))
	}
	c.self = next
	c.mu.Unlock()
	if err := c.saveSelf(); err != nil {
		return err
	}
	return c.announce(ctx)
}

// announce writes the own record if it is not what this node says.
func (c *Cluster) announce(ctx context.Context) error {
	t, err := c.state()
	if err != nil {
		return err
	}
	c.mu.RLock()
	self := c.self
	c.mu.RUnlock()
	if e, ok := t.nodes.Get(self.Name); !ok || e.Value.Number != self.Number {
		if _, err := t.claimNumber(ctx, self.Name, self.Number); err != nil {
			return err
		}
	}
	_, err = change(ctx, t.nodes, self.Name, func(n *Node, there bool) error {
		if !there {
			*n = self
		} else if err := judge(*n, c.cert.Load().Leaf); err != nil {
			c.learnRemoved()
			return err
		} else if n.Removed || n.KeyHash != self.KeyHash {
			return errors.New("the record of this node is older than the node; waiting for the new one")
		}
		n.says(self)
		return nil
	})
	return err
}

// says takes over what a node itself says.
func (n *Node) says(self Node) {
	n.Region, n.Roles, n.Address, n.Version = self.Region, self.Roles, self.Address, self.Version
	n.PeerPort, n.StatePort, n.RoutePort, n.WireGuardPort = self.PeerPort, self.StatePort, self.RoutePort, self.WireGuardPort
	n.WireGuardKey, n.WireGuardNext, n.WantMembers = self.WireGuardKey, self.WireGuardNext, self.WantMembers
}

var errNotAttached = errors.New("cannot change the cloud: its records are not open yet")

func (c *Cluster) state() (*tables, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.tables == nil {
		return nil, errNotAttached
	}
	return c.tables, nil
}

// record is a node's, also a removed one's: from the catalog, or as last heard.
func (c *Cluster) record(name string) (Node, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.tables != nil {
		if e, ok := c.tables.nodes.Get(name); ok {
			return e.Value, true
		}
	}
	n, ok := c.known[name]
	return n, ok
}

func (c *Cluster) records() map[string]Node {
	c.mu.RLock()
	defer c.mu.RUnlock()
	all := maps.Clone(c.known)
	if c.tables != nil {
		for _, e := range c.tables.nodes.List("") {
			all[e.Key] = e.Value
		}
	}
	return all
}

// Changes sends every node's record and then each that changes, a removed
// node's too, until ctx ends. Of several changes to one that was not taken yet
// only the last is sent. The records must be open: see [Cluster.Attach].
func (c *Cluster) Changes(ctx context.Context) <-chan Node {
	out := make(chan Node)
	t, err := c.state()
	if err != nil {
		close(out)
		return out
	}
	changes := t.nodes.Watch(ctx, "")
	go func() { // ends with ctx, or with the catalog
		defer close(out)
		for ch := range changes {
			if ch.Deleted {
				continue
			}
			select {
			case out <- ch.Value:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}
