package mesh

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/perigee-run/perigee/dns"
	"github.com/perigee-run/perigee/mesh/wire"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const nodeEnv = "PERIGEE_MESH_TEST_NODE"

// nodeSpec is what a node of the tests is told at its start.
type nodeSpec struct {
	Number   uint32
	Dir      string
	Underlay netip.Addr
}

func (s nodeSpec) addr() netip.Addr { return NodeAddr(defaultIPv6, s.Number) }
func (s nodeSpec) port() netip.AddrPort {
	return netip.AddrPortFrom(s.Underlay, wire.DefaultPort)
}

// nodeCall is one order to a node, and nodeReply what it says.
type nodeCall struct {
	Op      string
	ID      Identity
	Slot    int
	Peers   []wire.Peer
	Laptops []Peer
}

type nodeReply struct {
	Err    string
	Slot   *Slot
	Slots  []Slot
	Key    wire.Key
	Status []wire.Status
}

// testNumbers are those of the orgs in every test with nodes.
func testNumbers(org string) uint32 {
	return map[string]uint32{"acme": 0x0a0a0a0a, "bold": 0x0b0b0b0b, "cold": 0x0c0c0c0c}[org]
}

// nodeMain is a node: a process in a namespace of its own, so that it can be killed.
func nodeMain(spec string) error {
	var s nodeSpec
	if err := json.Unmarshal([]byte(spec), &s); err != nil {
		return err
	}
	n, err := New(Config{Prefix: "node", NodeNumber: s.Number, OrgNumber: testNumbers, Wire: "wire0", Dir: s.Dir})
	if err != nil {
		return err
	}
	if err := n.Setup(context.Background()); err != nil {
		return err
	}
	d, err := wire.New(wire.Config{Device: "wire0", KeyFile: filepath.Join(s.Dir, "wire.key"), Address: netip.PrefixFrom(s.addr(), 128)})
	if err != nil {
		return err
	}
	r, err := dns.New(dns.Config{Listen: []netip.AddrPort{netip.AddrPortFrom(resolver6(defaultIPv6), 53)}, Source: noMachines{}, OrgOf: n.OrgOf,
		Peers: func(org string) []dns.Peer { return []dns.Peer{{Name: org + "-laptop", IPv6: s.addr()}} }, Upstreams: []string{"127.0.0.1"}})
	if err != nil {
		return err
	}
	go r.Run(context.Background())
	in, out := json.NewDecoder(bufio.NewReader(os.Stdin)), json.NewEncoder(os.Stdout)
	for {
		var c nodeCall
		if err := in.Decode(&c); err == io.EOF {
			return d.Close()
		} else if err != nil {
			return err
		}
		reply, err := obey(n, d, c)
		if err != nil {
			reply.Err = err.Error()
		}
		if err := out.Encode(reply); err != nil {
			return err
		}
	}
}

type noMachines struct{}

func (noMachines) Machines(string, string) []dns.Machine { return nil }
func (noMachines) MachineAt(string, netip.Addr) (dns.Machine, bool) {
	return dns.Machine{}, false
}
func (noMachines) Apps(string) []string              { return nil }
func (noMachines) Service(string, string) netip.Addr { return netip.Addr{} }
func (noMachines) Has(string, string) bool           { return false }

func obey(n *Network, d *wire.Device, c nodeCall) (r nodeReply, err error) {
	ctx := context.Background()
	switch c.Op {
	case "hello":
		r.Key = d.PublicKey()
	case "assign":
		if r.Slot, err = n.Acquire(ctx); err == nil {
			err = n.Assign(ctx, r.Slot, c.ID)
		}
	case "reassign":
		for _, s := range n.Slots() {
			if s.ID == c.Slot {
				r.Slot, err = &s, n.Assign(ctx, &s, c.ID)
			}
		}
	case "slots":
		r.Slots = n.Slots()
	case "release":
		for _, s := range n.Slots() {
			if s.ID == c.Slot {
				err = n.Release(ctx, &s)
			}
		}
	case "peers":
		err = d.SetPeers(ctx, c.Peers)
	case "laptops":
		err = n.SetPeers(c.Laptops)
	case "rotate":
		r.Key, err = d.Rotate()
	case "next":
		err = d.UseNext()
	case "status":
		r.Status, err = d.Status()
	case "setup":
		err = n.Setup(ctx)
	default:
		err = fmt.Errorf("what is %q?", c.Op)
	}
	return r, err
}

// node is a node process as the test sees it.
type node struct {
	nodeSpec
	place
	t    testing.TB
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *json.Decoder
	Key  wire.Key
	Next wire.Key
}

// underlay is the bridge that all nodes hang on; the test itself has .254.
type underlay struct{}

// underlays counts the places on it in all tests: a device of the last test may
// take a while to go.
var underlays int

func newUnderlay(t testing.TB) *underlay {
	t.Helper()
	needHost(t)
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skip("needs /dev/net/tun")
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "underlay"
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if l, err := netlink.LinkByName("underlay"); err == nil {
			netlink.LinkDel(l)
		}
	})
	up(t, "", "underlay", netip.MustParseAddr("10.99.0.254"))
	return &underlay{}
}

func up(t testing.TB, p place, dev string, a netip.Addr) {
	t.Helper()
	err := p.do(func() error {
		return withHandle(func(h *netlink.Handle) error {
			for _, name := range []string{"lo", dev} {
				l, err := h.LinkByName(name)
				if err != nil {
					return err
				}
				if err := bringUp(h, l, true); err != nil {
					return err
				}
				if name == dev {
					return addAddr(h, l, ipNet(netip.PrefixFrom(a, 24)))
				}
			}
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// join makes a namespace on the bridge.
func (u *underlay) join(t testing.TB) (place, netip.Addr) {
	t.Helper()
	underlays++
	path := filepath.Join(t.TempDir(), "ns")
	host, err := netlink.NewHandle()
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	br, err := host.LinkByName("underlay")
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("under%d", underlays)
	err = makeNamespace(path, func() error {
		ns, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			return err
		}
		defer ns.Close()
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MasterIndex = name, br.Attrs().Index
		veth := netlink.NewVeth(attrs)
		veth.PeerName, veth.PeerNamespace = "eth0", netlink.NsFd(ns.Fd())
		return host.LinkAdd(veth)
	})
	t.Cleanup(func() {
		if l, err := netlink.LinkByName(name); err == nil {
			netlink.LinkDel(l)
		}
		removeNamespace(path)
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := host.LinkByName(name)
	if err == nil {
		err = host.LinkSetUp(l)
	}
	if err != nil {
		t.Fatal(err)
	}
	a := netip.AddrFrom4([4]byte{10, 99, 0, byte(underlays)})
	up(t, place(path), "eth0", a)
	return place(path), a
}

func (u *underlay) node(t testing.TB) *node {
	t.Helper()
	p, a := u.join(t)
	n := &node{nodeSpec: nodeSpec{Number: 0x0100_0000 + uint32(underlays), Dir: t.TempDir(), Underlay: a}, place: p, t: t}
	n.start()
	t.Cleanup(func() {
		for _, s := range n.slots() {
			n.call(nodeCall{Op: "release", Slot: s.ID})
		}
		n.in.Close()
		n.cmd.Wait()
	})
	return n
}

func (n *node) start() {
	n.t.Helper()
	spec, err := json.Marshal(n.nodeSpec)
	if err != nil {
		n.t.Fatal(err)
	}
	n.cmd = exec.Command("/proc/self/exe")
	n.cmd.Env = append(os.Environ(), nodeEnv+"="+string(spec))
	n.cmd.Stderr = os.Stderr
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: 0}
	if n.in, err = n.cmd.StdinPipe(); err != nil {
		n.t.Fatal(err)
	}
	out, err := n.cmd.StdoutPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	n.out = json.NewDecoder(out)
	if err := n.do(n.cmd.Start); err != nil {
		n.t.Fatal(err)
	}
	n.Key = n.call(nodeCall{Op: "hello"}).Key
}

// kill is a crash: no word to anyone.
func (n *node) kill() {
	n.t.Helper()
	if err := n.cmd.Process.Kill(); err != nil {
		n.t.Fatal(err)
	}
	n.cmd.Wait()
}

func (n *node) call(c nodeCall) nodeReply {
	n.t.Helper()
	var r nodeReply
	if err := json.NewEncoder(n.in).Encode(c); err != nil {
		n.t.Fatalf("node %d, %s: %v", n.Number, c.Op, err)
	}
	if err := n.out.Decode(&r); err != nil {
		n.t.Fatalf("node %d, %s: %v", n.Number, c.Op, err)
	}
	if r.Err != "" {
		n.t.Fatalf("node %d, %s: %s", n.Number, c.Op, r.Err)
	}
	return r
}

func (n *node) slots() []Slot { n.t.Helper(); return n.call(nodeCall{Op: "slots"}).Slots }

func (n *node) machine(org, name string) *Slot {
	n.t.Helper()
	return n.call(nodeCall{Op: "assign", ID: Identity{Org: org, App: "app", Machine: name}}).Slot
}

// peer is the node as others have it in their list.
func (n *node) peer() wire.Peer {
	return wire.Peer{Name: fmt.Sprint(n.Number), Key: n.Key, Next: n.Next, Endpoint: n.port().String(),
		Allowed: []netip.Prefix{NodePrefix(defaultIPv6, n.Number)}, Keepalive: 25 * time.Second}
}

// link tells every node of all the others.
func link(nodes []*node, more ...wire.Peer) {
	for _, n := range nodes {
		peers := more
		for _, o := range nodes {
			if o != n {
				peers = append(peers[:len(peers):len(peers)], o.peer())
			}
		}
		n.t.Helper()
		n.call(nodeCall{Op: "peers", Peers: peers})
	}
}

// packets counts the packets that arrive at a device and hold a mark.
func packets(t testing.TB, p place, dev, mark string) func() int {
	t.Helper()
	var fd int
	err := p.do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(htons(unix.ETH_P_ALL))); err != nil {
			return err
		}
		return withHandle(func(h *netlink.Handle) error {
			l, err := h.LinkByName(dev)
			if err != nil {
				return err
			}
			return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: l.Attrs().Index})
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return func() int { return drain(fd, mark) }
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

func waitFor(t testing.TB, what string, limit time.Duration, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not after %v", what, limit)
		}
	}
}
