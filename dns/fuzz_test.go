package dns

import (
	"context"
	"testing"

	"github.com/miekg/dns"
)

// FuzzAnswer hands any bytes that are a message to the resolver: it must answer
// with a message that can be sent, fits, and repeats the question.
func FuzzAnswer(f *testing.F) {
	for _, name := range []string{"shop.internal.", "_instances.internal.", "top2.nearest.of.shop.internal.",
		"a.b.kv._metadata.shop.internal.", "example.com.", ".", "flycast.", "lap._peer.internal.", `w\.x\000.internal.`, "1.0.213.10.in-addr.arpa."} {
		for _, qtype := range []uint16{dns.TypeAAAA, dns.TypeTXT, dns.TypeANY, dns.TypePTR} {
			b, err := new(dns.Msg).SetQuestion(name, qtype).SetEdns0(1232, true).Pack()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b, false)
		}
	}
	cfg := world()
	s, err := New(cfg)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(s.Close)
	s.upstreams.fixed = []string{} // nowhere to ask
	f.Fuzz(func(t *testing.T, b []byte, tcp bool) {
		q := new(dns.Msg)
		if q.Unpack(b) != nil {
			return
		}
		m := s.answer(context.Background(), loopback, q)
		if m == nil {
			return
		}
		if !m.Response || m.Id != q.Id || len(m.Question) != len(q.Question) {
			t.Errorf("not a reply: %v", m)
		}
		fit(m, q, tcp)
		out, err := m.Pack()
		if err != nil {
			t.Skip("the question itself cannot be packed again:", err)
		}
		if !tcp && len(out) > udpSize && len(m.Answer) > 0 {
			t.Errorf("%d bytes over UDP", len(out))
		}
	})
}

// FuzzReverse: a name read as an address is the name of that address.
func FuzzReverse(f *testing.F) {
	f.Add("3.0.213.10.in-addr.arpa.")
	f.Add("1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.a.a.d.f.ip6.arpa.")
	f.Add("internal.")
	f.Fuzz(func(t *testing.T, name string) {
		a, ok := reverseAddr(name)
		if !ok {
			return
		}
		if back, err := dns.ReverseAddr(a.WithZone("").String()); err != nil || len(back) != len(dns.Fqdn(name)) {
			t.Errorf("%q is %s, whose name is %q (%v)", name, a, back, err)
		}
	})
}
