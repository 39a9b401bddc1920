//go:build linux

package upstream

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/osrg/gobgp/v4/pkg/packet/bgp"
)

// session is one host's connection. Its goroutine reads; a second one says that
// we are alive.
type session struct {
	server *Server
	conn   net.Conn
	host   string
	addr   netip.Addr
	asn    uint32
	hold   time.Duration
	as2    bool // AS numbers are of two bytes: the host cannot do better
	ended  chan struct{}

	write    sync.Mutex            // one message at a time
	prefixes map[netip.Prefix]bool // under server.mu
}

// openPatience is how long a host may take to say who it is.
const openPatience = 10 * time.Second

// run returns why the session ended.
func (n *session) run() error {
	if err := n.open(); err != nil {
		return n.refuse(err)
	}
	n.server.enter(n)
	defer n.server.exit(n)
	var wg sync.WaitGroup
	quit := make(chan struct{})
	defer wg.Wait()
	defer close(quit)
	if n.hold > 0 {
		wg.Go(func() { n.keepAlive(quit) })
	}
	for {
		m, err := n.read(n.hold)
		if err != nil {
			return n.refuse(err)
		}
		switch b := m.Body.(type) {
		case *bgp.BGPUpdate:
			n.learn(b)
		case *bgp.BGPNotification:
			return fmt.Errorf("the host said %d/%d", b.ErrorCode, b.ErrorSubcode)
		}
	}
}

// open says who we are and learns who the host is.
func (n *session) open() error {
	s := n.server
	caps := []bgp.ParameterCapabilityInterface{
		bgp.NewCapMultiProtocol(bgp.RF_IPv4_UC), bgp.NewCapMultiProtocol(bgp.RF_IPv6_UC), bgp.NewCapFourOctetASNumber(uint32(s.cfg.ASN)),
	}
	hello, err := bgp.NewBGPOpenMessage(s.cfg.ASN, uint16(s.cfg.HoldTime/time.Second), s.cfg.ID, []bgp.OptionParameterInterface{bgp.NewOptionParameterCapability(caps)})
	if err != nil {
		return err
	}
	if err := n.send(hello); err != nil {
		return err
	}
	m, err := n.read(openPatience)
	if err != nil {
		return err
	}
	o, ok := m.Body.(*bgp.BGPOpen)
	if !ok {
		return bgp.NewMessageError(bgp.BGP_ERROR_FSM_ERROR, 0, nil, "the first message is no OPEN")
	}
	if err := n.meet(o); err != nil {
		return err
	}
	return n.send(bgp.NewBGPKeepAliveMessage())
}

// meet checks what the host says of itself.
func (n *session) meet(o *bgp.BGPOpen) error {
	if o.Version != 4 {
		return bgp.NewMessageError(bgp.BGP_ERROR_OPEN_MESSAGE_ERROR, bgp.BGP_ERROR_SUB_UNSUPPORTED_VERSION_NUMBER, []byte{0, 4}, "not BGP 4")
	}
	if o.HoldTime == 1 || o.HoldTime == 2 {
		return bgp.NewMessageError(bgp.BGP_ERROR_OPEN_MESSAGE_ERROR, bgp.BGP_ERROR_SUB_UNACCEPTABLE_HOLD_TIME, nil, "a hold time under 3 s")
	}
	n.asn, n.as2 = uint32(o.MyAS), true
	for _, p := range o.OptParams {
		c, ok := p.(*bgp.OptionParameterCapability)
		if !ok {
			continue
		}
		for _, cap := range c.Capability {
			if as, ok := cap.(*bgp.CapFourOctetASNumber); ok {
				n.asn, n.as2 = as.CapValue, false
			}
		}
	}
	n.hold = min(n.server.cfg.HoldTime, time.Duration(o.HoldTime)*time.Second)
	return nil
}

// learn takes over what an update says.
func (n *session) learn(u *bgp.BGPUpdate) {
	n.each(u.WithdrawnRoutes, n.server.withdraw)
	for _, a := range u.PathAttributes {
		if gone, ok := a.(*bgp.PathAttributeMpUnreachNLRI); ok {
			n.each(gone.Value, n.server.withdraw)
		}
	}
	n.each(u.NLRI, n.server.announce)
	for _, a := range u.PathAttributes {
		if come, ok := a.(*bgp.PathAttributeMpReachNLRI); ok {
			n.each(come.Value, n.server.announce)
		}
	}
}

func (n *session) each(routes []bgp.PathNLRI, do func(*session, netip.Prefix)) {
	for _, r := range routes {
		if p, ok := r.NLRI.(*bgp.IPAddrPrefix); ok {
			do(n, p.Prefix.Masked())
		}
	}
}

// read waits for a message; without one in time the hold timer has expired.
func (n *session) read(patience time.Duration) (*bgp.BGPMessage, error) {
	var until time.Time
	if patience > 0 {
		until = time.Now().Add(patience)
	}
	if err := n.conn.SetReadDeadline(until); err != nil {
		return nil, err
	}
	m, err := readMessage(n.conn, &bgp.MarshallingOption{Use2ByteAS: n.as2})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, bgp.NewMessageError(bgp.BGP_ERROR_HOLD_TIMER_EXPIRED, 0, nil, "nothing was heard for the hold time")
	}
	return m, err
}

// readMessage reads one message of the size that BGP allows.
func readMessage(r io.Reader, o *bgp.MarshallingOption) (*bgp.BGPMessage, error) {
	head := make([]byte, bgp.BGP_HEADER_LENGTH)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	var h bgp.BGPHeader
	if err := h.DecodeFromBytes(head); err != nil {
		return nil, err
	}
	if h.Len > bgp.BGP_MAX_MESSAGE_LENGTH {
		return nil, bgp.NewMessageError(bgp.BGP_ERROR_MESSAGE_HEADER_ERROR, bgp.BGP_ERROR_SUB_BAD_MESSAGE_LENGTH, nil, "a message over 4096 bytes")
	}
	body := make([]byte, int(h.Len)-bgp.BGP_HEADER_LENGTH)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, err
	}
	return bgp.ParseBGPBody(&h, body, o)
}

// refuse tells the host why the session ends, if it did something wrong.
func (n *session) refuse(err error) error {
	var m *bgp.MessageError
	if errors.As(err, &m) {
		_ = n.send(bgp.NewBGPNotificationMessage(m.TypeCode, m.SubTypeCode, m.Data))
	}
	return err
}

// leave ends the session from our side.
func (n *session) leave() {
	_ = n.send(bgp.NewBGPNotificationMessage(bgp.BGP_ERROR_CEASE, bgp.BGP_ERROR_SUB_ADMINISTRATIVE_SHUTDOWN, nil))
	n.conn.Close()
}

func (n *session) keepAlive(quit <-chan struct{}) {
	t := time.NewTicker(n.hold / 3)
	defer t.Stop()
	for {
		select {
		case <-quit:
			return
		case <-t.C:
			if n.send(bgp.NewBGPKeepAliveMessage()) != nil {
				n.conn.Close() // the reader ends the session
				return
			}
		}
	}
}

func (n *session) send(m *bgp.BGPMessage) error {
	b, err := m.Serialize()
	if err != nil {
		return err
	}
	n.write.Lock()
	defer n.write.Unlock()
	if err := n.conn.SetWriteDeadline(time.Now().Add(openPatience)); err != nil {
		return err
	}
	_, err = n.conn.Write(b)
	return err
}
