//go:build linux

package upstream

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/osrg/gobgp/v4/pkg/packet/bgp"
)

type nothing struct{}

func (nothing) Announce(string, netip.Prefix) error { return nil }
func (nothing) Withdraw(string, netip.Prefix) error { return nil }

// FuzzMessage feeds a session what any host may send.
func FuzzMessage(f *testing.F) {
	p, _ := bgp.NewIPAddrPrefix(netip.MustParsePrefix("192.0.2.0/24"))
	for _, m := range []*bgp.BGPMessage{
		bgp.NewBGPKeepAliveMessage(), bgp.NewBGPNotificationMessage(6, 2, nil),
		bgp.NewBGPUpdateMessage([]bgp.PathNLRI{{NLRI: p}}, nil, nil),
	} {
		b, err := m.Serialize()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(_ *testing.T, b []byte) {
		s := New(Config{Routes: nothing{}})
		n := &session{server: s, prefixes: map[netip.Prefix]bool{}}
		r := bytes.NewReader(b)
		for {
			m, err := readMessage(r, &bgp.MarshallingOption{})
			if err != nil {
				return
			}
			switch b := m.Body.(type) {
			case *bgp.BGPUpdate:
				n.learn(b)
			case *bgp.BGPOpen:
				_ = n.meet(b)
			}
		}
	})
}
