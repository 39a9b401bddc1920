//go:build linux

package lab

import (
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// zoneServer answers with its host's address and the subnet it was asked for.
func zoneServer(t *testing.T, h *Host, ttl uint32) *atomic.Int64 {
	t.Helper()
	udp, err := h.ListenPacket("udp", netip.AddrPortFrom(h.Addr4, 53).String())
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int64
	srv := &dns.Server{PacketConn: udp, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		asked.Add(1)
		m := new(dns.Msg).SetReply(q)
		m.Authoritative = true
		hdr := dns.RR_Header{Name: q.Question[0].Name, Class: dns.ClassINET, Ttl: ttl}
		switch {
		case strings.HasPrefix(hdr.Name, "www."):
			hdr.Rrtype = dns.TypeCNAME
			m.Answer = append(m.Answer, &dns.CNAME{Hdr: hdr, Target: "shop.example.com."})
		case q.Question[0].Qtype == dns.TypeA:
			hdr.Rrtype = dns.TypeA
			m.Answer = append(m.Answer, &dns.A{Hdr: hdr, A: h.Addr4.AsSlice()})
		case q.Question[0].Qtype == dns.TypeTXT:
			hdr.Rrtype = dns.TypeTXT
			subnet := "none"
			for _, o := range q.IsEdns0().Option {
				if e, ok := o.(*dns.EDNS0_SUBNET); ok {
					subnet = e.String()
				}
			}
			m.Answer = append(m.Answer, &dns.TXT{Hdr: hdr, Txt: []string{subnet}})
		}
		w.WriteMsg(m)
	})}
	done := make(chan struct{})
	go func() { defer close(done); srv.ActivateAndServe() }()
	t.Cleanup(func() { udp.Close(); <-done })
	return &asked
}

func TestDNS(t *testing.T) {
	l := newLab(t, "iad", "fra")
	iad, fra := addHost(t, l, "ns-iad", "iad"), addHost(t, l, "ns-fra", "fra")
	visitor := addHost(t, l, "visitor-fra", "fra")
	askedIad, askedFra := zoneServer(t, iad, 60), zoneServer(t, fra, 60)
	if err := l.Delegate("example.com", netip.AddrPortFrom(iad.Addr4, 53), netip.AddrPortFrom(fra.Addr4, 53)); err != nil {
		t.Fatal(err)
	}
	want := func(what, name string, addr netip.Addr) {
		t.Helper()
		got, err := visitor.Lookup(t.Context(), name)
		if err != nil || len(got) == 0 || got[0] != addr {
			t.Errorf("%s: %s is %v, want %s: %v", what, name, got, addr, err)
		}
	}
	want("nearest server", "shop.example.com", fra.Addr4)
	before := askedFra.Load()
	want("remembered", "shop.example.com", fra.Addr4)
	if askedFra.Load() > before+1 { // AAAA has no answer and no SOA: it is asked anew
		t.Error("an answer was not remembered")
	}
	want("alias", "www.example.com", fra.Addr4)
	want("own name", "ns-iad.lab", iad.Addr4)
	if askedIad.Load() != 0 {
		t.Error("the far server was asked")
	}
	c, err := visitor.Dial(t.Context(), "udp", "100.65.0.1:53")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	m, _, err := new(dns.Client).ExchangeWithConn(new(dns.Msg).SetQuestion("shop.example.com.", dns.TypeTXT), &dns.Conn{Conn: c})
	if err != nil || len(m.Answer) != 1 || m.Answer[0].(*dns.TXT).Txt[0] != "100.65.0.0/24/0" {
		t.Errorf("the visitor's subnet did not arrive: %v %v", m, err)
	}
	// The near server is gone: the far one answers, what is remembered or not.
	if err := l.Isolate("ns-fra"); err != nil {
		t.Fatal(err)
	}
	want("fail over", "other.example.com", iad.Addr4)
	if _, err := visitor.Lookup(t.Context(), "nowhere.example.org"); err == nil {
		t.Error("found a name of no zone")
	}
	out, err := visitor.Command(t.Context(), "getent", "ahostsv4", "shop.example.com").CombinedOutput()
	if err != nil || !strings.Contains(string(out), fra.Addr4.String()) {
		t.Errorf("getent: %s %v", out, err)
	}
}
