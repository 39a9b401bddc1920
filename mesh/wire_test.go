package mesh

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/perigee-run/perigee/mesh/wire"
	"golang.org/x/sys/unix"
)

// TestNodes is the firewall between nodes as a table.
func TestNodes(t *testing.T) {
	u := newUnderlay(t)
	one, two, three := u.node(t), u.node(t), u.node(t)
	nodes := []*node{one, two, three}
	link(nodes)
	a1, a2, a3 := one.machine("acme", "a1"), two.machine("acme", "a2"), three.machine("acme", "a3")
	b1, b2, c3 := one.machine("bold", "b1"), two.machine("bold", "b2"), three.machine("cold", "c3")
	for _, s := range []*Slot{a1, a2, a3, b1, b2, c3} {
		serve(t, in(s), addrPort(s.IPv6))
		serve(t, in(s), netip.AddrPortFrom(s.IPv6, HostRouterPort))
	}
	for _, n := range nodes {
		for _, port := range []uint16{HostRouterPort, testPort, 443} {
			serve(t, n.place, netip.AddrPortFrom(n.addr(), port))
		}
		serve(t, n.place, netip.AddrPortFrom(resolver6(defaultIPv6), testPort))
	}
	stranger, _ := u.join(t)

	none := netip.Addr{}
	tests := []struct {
		name string
		from place
		to   netip.Addr
		port uint16
		want netip.Addr
	}{
		{"same org, there", in(a1), a2.IPv6, testPort, a1.IPv6},
		{"same org, back", in(a2), a1.IPv6, testPort, a2.IPv6},
		{"same org, third node", in(a3), a2.IPv6, testPort, a3.IPv6},
		{"same org, any port", in(b1), b2.IPv6, HostRouterPort, b1.IPv6},
		{"other org", in(a1), b2.IPv6, testPort, none},
		{"other org, back", in(b2), a1.IPv6, testPort, none},
		{"org that is here alone", in(a1), c3.IPv6, testPort, none},
		{"from an org that is there alone", in(c3), a1.IPv6, testPort, none},
		{"nobody's address there", in(a1), PrivateIPv6(defaultIPv6, two.Number, testNumbers("acme"), "nobody"), testPort, none},
		{"node to node, host router", one.place, two.addr(), HostRouterPort, one.addr()},
		{"node to node, other port", one.place, two.addr(), testPort, none},
		{"node to node, public port", one.place, two.addr(), 443, none},
		{"node to machine elsewhere", one.place, a2.IPv6, testPort, none},
		{"machine to its own node", in(a1), one.addr(), HostRouterPort, none},
		{"machine to its own node, public port", in(a1), one.addr(), 443, none},
		{"machine to another node", in(a1), two.addr(), HostRouterPort, none},
		{"machine to another node, public port", in(a1), two.addr(), 443, none},
		{"machine by a stranger's route", stranger, a1.IPv6, testPort, none},
		{"node's address by a stranger's route", stranger, one.addr(), HostRouterPort, none},
	}
	routeVia(t, stranger, one)
	for _, tt := range tests {
		for _, network := range []string{"tcp", "udp"} {
			t.Run(tt.name+", "+network, func(t *testing.T) {
				timeout := brief
				if tt.want.IsValid() {
					timeout = patient
				}
				got, err := call(tt.from, network, netip.AddrPortFrom(tt.to, tt.port), netip.Addr{}, timeout)
				if got != tt.want {
					t.Errorf("other end saw %v, want %v (%v)", got, tt.want, err)
				}
			})
		}
	}
	t.Run("ping", func(t *testing.T) {
		if err := ping(in(a1), a3.IPv6, patient); err != nil {
			t.Error(err)
		}
		for _, to := range []netip.Addr{b2.IPv6, two.addr()} {
			if err := ping(in(a1), to, brief); err == nil {
				t.Errorf("%s answered", to)
			}
		}
	})
	t.Run("1 MB there and back", func(t *testing.T) { echoMegabyte(t, in(a1), in(a2), netip.AddrPortFrom(a2.IPv6, 9000)) })
	t.Run("large datagram", func(t *testing.T) { largeDatagram(t, in(a1), in(a2), netip.AddrPortFrom(a2.IPv6, 9001)) })
	t.Run("slot changes hands", func(t *testing.T) {
		moved := two.call(nodeCall{Op: "reassign", Slot: a2.ID, ID: Identity{Org: "bold", App: "app", Machine: "m"}}).Slot
		serve(t, in(moved), addrPort(moved.IPv6))
		if got, err := call(in(b1), "tcp", addrPort(moved.IPv6), none, patient); got != b1.IPv6 {
			t.Errorf("its new org: %v, %v", got, err)
		}
		for _, to := range []netip.Addr{moved.IPv6, a2.IPv6} {
			if got, _ := call(in(a1), "tcp", addrPort(to), none, brief); got.IsValid() {
				t.Errorf("its old org reaches %s", to)
			}
		}
	})
}

// routeVia sends a stranger's packets for the mesh to the node, whose neighbour it is.
func routeVia(t testing.TB, stranger place, n *node) {
	t.Helper()
	mac := hardwareAddr(t, n.place, "eth0")
	addNeighbourRoute(t, stranger, "eth0", mac)
}

// ping sends echo requests, two a second since one may be lost, until a reply comes.
func ping(p place, to netip.Addr, timeout time.Duration) error {
	var c net.Conn
	err := p.do(func() (err error) {
		c, err = net.Dial("ip6:ipv6-icmp", to.String())
		return err
	})
	if err != nil {
		return err
	}
	defer c.Close()
	for end := time.Now().Add(timeout); time.Now().Before(end); {
		if err = echo(c, min(timeout, 500*time.Millisecond)); !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
	return err
}

func echo(c net.Conn, timeout time.Duration) error {
	c.SetDeadline(time.Now().Add(timeout))
	if _, err := c.Write([]byte{icmp6Echo, 0, 0, 0, 1, 2, 3, 4}); err != nil {
		return err
	}
	buf := make([]byte, 128)
	for {
		k, err := c.Read(buf)
		if err != nil || k >= 8 && buf[0] == icmp6Echo+1 {
			return err
		}
	}
}

func echoMegabyte(t *testing.T, from, to place, addr netip.AddrPort) {
	l := listenTCP(t, to, addr)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		io.Copy(c, c)
	}()
	sent := make([]byte, 1<<20)
	for i := range sent {
		sent[i] = byte(rand.Uint32())
	}
	var c net.Conn
	if err := from.do(func() (err error) { c, err = net.DialTimeout("tcp", addr.String(), patient); return err }); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patient))
	go func() { c.Write(sent); c.(*net.TCPConn).CloseWrite() }()
	got, err := io.ReadAll(c)
	if err != nil || sha256.Sum256(got) != sha256.Sum256(sent) {
		t.Errorf("%d bytes came back, %v", len(got), err)
	}
}

// largeDatagram needs fragments, and "packet too big" on the way.
func largeDatagram(t *testing.T, from, to place, addr netip.AddrPort) {
	u := listenUDP(t, to, addr)
	var c net.Conn
	if err := from.do(func() (err error) { c, err = net.Dial("udp", addr.String()); return err }); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	sent, buf := bytes.Repeat([]byte("large"), 1600), make([]byte, 9000)
	for range 5 { // the first ones find out how large a packet may be
		c.Write(sent)
		u.SetReadDeadline(time.Now().Add(brief))
		if k, _, err := u.ReadFrom(buf); err == nil && bytes.Equal(buf[:k], sent) {
			return
		}
	}
	t.Error("it never arrived")
}

// TestForgedPackets sends packets that no decent stack would: none may arrive.
func TestForgedPackets(t *testing.T) {
	u := newUnderlay(t)
	one, two := u.node(t), u.node(t)
	link([]*node{one, two})
	a1, a2, b1, b2 := one.machine("acme", "a1"), two.machine("acme", "a2"), one.machine("bold", "b1"), two.machine("bold", "b2")
	serve(t, in(a2), addrPort(a2.IPv6))
	if _, err := call(in(a1), "tcp", addrPort(a2.IPv6), netip.Addr{}, patient); err != nil {
		t.Fatal(err)
	}
	const mark = "forged-packet-mark"
	atA2, atB2, atB1 := packets(t, in(a2), "eth0", mark), packets(t, in(b2), "eth0", mark), packets(t, in(b1), "eth0", mark)
	onWire := packets(t, one.place, "wire0", mark)
	send := func(p packet) { sendRaw(t, in(a1), "eth0", p.bytes(mark)) }

	send(packet{src: a1.IPv6, dst: a2.IPv6})
	waitFor(t, "an honest packet arrives", patient, func() bool { return atA2() > 0 })
	onWire()

	tests := []packet{
		{name: "other org", src: a1.IPv6, dst: b2.IPv6},
		{name: "as a machine of the other org", src: b1.IPv6, dst: b2.IPv6},
		{name: "as a machine of the other org elsewhere", src: b2.IPv6, dst: b1.IPv6},
		{name: "as our neighbour in the org", src: PrivateIPv6(defaultIPv6, one.Number, testNumbers("acme"), "x"), dst: a2.IPv6},
		{name: "as another host of our own range", src: next(a1.IPv6), dst: a2.IPv6},
		{name: "as the node", src: one.addr(), dst: two.addr(), port: HostRouterPort},
		{name: "as the node, to a machine", src: one.addr(), dst: b2.IPv6},
		{name: "as the resolver", src: resolver6(defaultIPv6), dst: b2.IPv6},
		{name: "from nowhere", src: netip.MustParseAddr("2001:db8::5"), dst: b2.IPv6},
		{name: "link-local", src: netip.MustParseAddr("fe80::5"), dst: b2.IPv6},
		{name: "no source", src: netip.IPv6Unspecified(), dst: b2.IPv6},
		{name: "no organisation", src: PrivateIPv6(defaultIPv6, one.Number, 0, "x"), dst: two.addr(), port: HostRouterPort},
		{name: "fragment", src: a1.IPv6, dst: b2.IPv6, fragment: true},
		{name: "fragment, as the other org", src: b1.IPv6, dst: b2.IPv6, fragment: true},
		{name: "hop-by-hop header", src: a1.IPv6, dst: b2.IPv6, extension: 0},
		{name: "destination header", src: a1.IPv6, dst: b2.IPv6, extension: 60},
		{name: "routing header", src: a1.IPv6, dst: a2.IPv6, extension: 43, via: b2.IPv6},
		{name: "routing header, as the other org", src: b1.IPv6, dst: b2.IPv6, extension: 43, via: b2.IPv6},
		{name: "encapsulated", src: a1.IPv6, dst: two.addr(), inner: &packet{src: b1.IPv6, dst: b2.IPv6}},
		{name: "multicast", src: a1.IPv6, dst: netip.MustParseAddr("ff02::1")},
	}
	for _, p := range tests {
		t.Run(p.name, func(t *testing.T) {
			send(p)
			time.Sleep(60 * time.Millisecond)
			if k := atB2() + atB1(); k > 0 {
				t.Errorf("%d packets arrived", k)
			}
			if k := onWire(); k > 0 && p.extension != 43 {
				t.Errorf("%d packets left the node", k)
			}
			atA2()
		})
	}
}

// TestRogueNode: a node speaks for its own /48 alone, whatever it sends.
func TestRogueNode(t *testing.T) {
	u := newUnderlay(t)
	one, rogue, three := u.node(t), u.node(t), u.node(t)
	link([]*node{one, rogue, three})
	a1, a3, r := one.machine("acme", "a1"), three.machine("acme", "a3"), rogue.machine("acme", "r")
	serve(t, in(a1), addrPort(a1.IPv6))
	serve(t, one.place, netip.AddrPortFrom(one.addr(), HostRouterPort))
	if _, err := call(in(r), "tcp", addrPort(a1.IPv6), netip.Addr{}, patient); err != nil {
		t.Fatal(err)
	}
	const mark = "rogue-packet-mark"
	at, atNode, atThree := packets(t, in(a1), "eth0", mark), received(t, one.place, netip.AddrPortFrom(one.addr(), 4284)), packets(t, in(a3), "eth0", mark)
	send := func(p packet) { sendOnWire(t, rogue.place, p.bytes(mark)) }
	send(packet{src: r.IPv6, dst: a1.IPv6})
	waitFor(t, "an honest packet arrives", patient, func() bool { return at() > 0 })
	own := PrivateIPv6(defaultIPv6, one.Number, testNumbers("acme"), "other")
	tests := []packet{
		{name: "as a machine of a third node", src: a3.IPv6, dst: a1.IPv6},
		{name: "as a machine of the victim's node", src: own, dst: a1.IPv6},
		{name: "as the victim", src: a1.IPv6, dst: a1.IPv6},
		{name: "as a third node", src: three.addr(), dst: one.addr(), port: HostRouterPort},
		{name: "as the victim's node", src: one.addr(), dst: a1.IPv6},
		{name: "as the resolver", src: resolver6(defaultIPv6), dst: a1.IPv6},
		{name: "from outside", src: netip.MustParseAddr("2001:db8::1"), dst: a1.IPv6},
		{name: "link-local", src: netip.MustParseAddr("fe80::1"), dst: a1.IPv6},
		{name: "org that is not the machine's", src: PrivateIPv6(defaultIPv6, rogue.Number, testNumbers("bold"), "x"), dst: a1.IPv6},
		{name: "its own node address", src: rogue.addr(), dst: a1.IPv6},
		{name: "a machine of its own to the host router", src: r.IPv6, dst: one.addr(), port: HostRouterPort},
		{name: "to the resolver", src: rogue.addr(), dst: resolver6(defaultIPv6), port: 53},
		{name: "through the victim to a third", src: r.IPv6, dst: a3.IPv6},
	}
	for _, p := range tests {
		t.Run(p.name, func(t *testing.T) {
			if p.dst == a3.IPv6 {
				sendTo(t, rogue, one, p.bytes(mark)) // against the routes of WireGuard
			} else {
				send(p)
			}
			time.Sleep(60 * time.Millisecond)
			if k := at() + atNode() + atThree(); k > 0 {
				t.Errorf("%d packets arrived", k)
			}
		})
	}
}

// packet is an IPv6 packet with a UDP datagram, or part of one.
type packet struct {
	name      string
	src, dst  netip.Addr
	port      uint16
	fragment  bool
	extension int // number of an extension header; 0 with the zero value means none
	via       netip.Addr
	inner     *packet
}

func (p packet) bytes(mark string) []byte {
	next, payload := byte(unix.IPPROTO_UDP), p.datagram(mark)
	if p.inner != nil {
		next, payload = unix.IPPROTO_IPV6, p.inner.bytes(mark)
	}
	switch {
	case p.fragment: // the second one comes first; it has no port
		payload, next = append([]byte{next, 0, 0, 8<<3 | 0, 1, 2, 3, 4}, payload...), 44
	case p.extension == 43:
		head := append([]byte{next, 2, 0, 1, 0, 0, 0, 0}, p.via.AsSlice()...)
		payload, next = append(head, payload...), 43
	case p.extension == 60 || p.name == "hop-by-hop header":
		payload, next = append([]byte{next, 0, 1, 4, 0, 0, 0, 0}, payload...), byte(p.extension)
	}
	head := make([]byte, 8, 40)
	head[0] = 0x60
	binary.BigEndian.PutUint16(head[4:], uint16(len(payload)))
	head[6], head[7] = next, 64
	return append(append(append(head, p.src.AsSlice()...), p.dst.AsSlice()...), payload...)
}

// datagram has a right checksum.
func (p packet) datagram(mark string) []byte {
	port := p.port
	if port == 0 {
		port = testPort
	}
	d := make([]byte, 8, 64)
	binary.BigEndian.PutUint16(d, 999)
	binary.BigEndian.PutUint16(d[2:], port)
	d = append(d, mark...)
	if len(d)%2 == 1 {
		d = append(d, 0)
	}
	binary.BigEndian.PutUint16(d[4:], uint16(len(d)))
	var sum uint32
	for _, b := range [][]byte{p.src.AsSlice(), p.dst.AsSlice(), {0, unix.IPPROTO_UDP, 0, byte(len(d))}, d} {
		for i := 0; i < len(b); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(b[i:]))
		}
	}
	for sum>>16 != 0 {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(d[6:], ^uint16(sum))
	return d
}

func next(a netip.Addr) netip.Addr { return a.Next() }

// received counts what a program that listens there is given.
func received(t testing.TB, p place, addr netip.AddrPort) func() int {
	t.Helper()
	fd := -1
	err := p.do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrInet6{Addr: addr.Addr().As16()})
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return func() int { return drain(fd, "mark") }
}

func drain(fd int, mark string) int {
	count, buf := 0, make([]byte, 65536)
	for {
		k, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			return count
		}
		if bytes.Contains(buf[:k], []byte(mark)) {
			count++
		}
	}
}

// TestUnknownKey: who has no place in the mesh gets no answer.
func TestUnknownKey(t *testing.T) {
	u := newUnderlay(t)
	one, two := u.node(t), u.node(t)
	one.call(nodeCall{Op: "peers"}) // has not heard of two
	link([]*node{two}, one.peer())
	serve(t, one.place, netip.AddrPortFrom(one.addr(), HostRouterPort))
	a1, a2 := one.machine("acme", "a1"), two.machine("acme", "a2")
	serve(t, in(a1), addrPort(a1.IPv6))
	for _, to := range []netip.AddrPort{addrPort(a1.IPv6), netip.AddrPortFrom(one.addr(), HostRouterPort)} {
		if got, err := call(in(a2), "tcp", to, netip.Addr{}, time.Second); err == nil {
			t.Errorf("%s answered to %s", to, got)
		}
	}
	if s := two.call(nodeCall{Op: "status"}).Status[0]; !s.LastHandshake.IsZero() || s.Received > 0 {
		t.Errorf("the link is %+v", s)
	}
	t.Run("then it is known", func(t *testing.T) {
		link([]*node{one, two})
		if got, err := call(in(a2), "tcp", addrPort(a1.IPv6), netip.Addr{}, 2*patient); got != a2.IPv6 {
			t.Errorf("%v, %v", got, err)
		}
	})
	t.Run("and then it is gone", func(t *testing.T) {
		one.call(nodeCall{Op: "peers"})
		if _, err := call(in(a2), "tcp", addrPort(a1.IPv6), netip.Addr{}, brief); err == nil {
			t.Error("it still answers")
		}
	})
}

// TestWrongKey: an address alone is nobody. Two is known to one by a key that is
// not its own, as after a theft of its address or a record that was tampered with:
// nothing passes, either way, and the others notice nothing.
func TestWrongKey(t *testing.T) {
	u := newUnderlay(t)
	one, two, three := u.node(t), u.node(t), u.node(t)
	a1, a2, a3 := one.machine("acme", "a1"), two.machine("acme", "a2"), three.machine("acme", "a3")
	for _, s := range []*Slot{a1, a2, a3} {
		serve(t, in(s), addrPort(s.IPv6))
	}
	wrong := two.peer()
	wrong.Key = mustKey(t).Public()
	one.call(nodeCall{Op: "peers", Peers: []wire.Peer{wrong, three.peer()}})
	link([]*node{two}, one.peer())
	link([]*node{three}, one.peer())
	const there, back = "marked-there", "marked-back"
	atA1, atA2 := packets(t, in(a1), "eth0", back), packets(t, in(a2), "eth0", there)
	sendRaw(t, in(a1), "eth0", packet{src: a1.IPv6, dst: a2.IPv6}.bytes(there))
	sendRaw(t, in(a2), "eth0", packet{src: a2.IPv6, dst: a1.IPv6}.bytes(back))
	if got, err := call(in(a1), "tcp", addrPort(a3.IPv6), netip.Addr{}, patient); got != a1.IPv6 {
		t.Errorf("the third node is not reached: %v, %v", got, err)
	}
	for _, c := range []struct{ from, to *Slot }{{a1, a2}, {a2, a1}} {
		if got, err := call(in(c.from), "tcp", addrPort(c.to.IPv6), netip.Addr{}, time.Second); err == nil {
			t.Errorf("%s answered to %s", c.to.IPv6, got)
		}
	}
	if k := atA1() + atA2(); k > 0 {
		t.Errorf("%d packets arrived", k)
	}
	for _, n := range []*node{one, two} {
		if s := n.call(nodeCall{Op: "status"}).Status[0]; !s.LastHandshake.IsZero() || s.Received > 0 {
			t.Errorf("the link is %+v", s)
		}
	}
	link([]*node{one, two})
	if got, err := call(in(a1), "tcp", addrPort(a2.IPv6), netip.Addr{}, 2*patient); got != a1.IPv6 {
		t.Errorf("with the right key: %v, %v", got, err)
	}
}
