package dns

import (
	"cmp"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

// internalTTL is short, in seconds, since machines come and go.
const internalTTL = 5

// found is what a name stands for. A name may exist without a machine that is started.
type found struct {
	exists   bool
	machines []Machine
	addr     netip.Addr // of a laptop or a service
	sorted   bool       // the order means something
	text     string
	pointer  string
}

// isPrivate tells names that never leave the node.
func (s *Server) isPrivate(name string) bool {
	if dns.IsSubDomain("internal.", name) || dns.IsSubDomain("flycast.", name) {
		return true
	}
	a, ok := reverseAddr(name)
	return ok && slices.ContainsFunc(s.cfg.Private, func(p netip.Prefix) bool { return p.Contains(a) })
}

// private answers one of those names, as the org may see it.
func (s *Server) private(org string, q dns.Question) *dns.Msg {
	name := strings.ToLower(q.Name)
	f := view{s.cfg.Source, s.cfg.Peers, org, s.cfg.Region}.find(name)
	m := &dns.Msg{MsgHdr: dns.MsgHdr{Authoritative: true}}
	if !f.exists {
		m.Rcode = dns.RcodeNameError
	}
	m.Answer = f.records(q)
	if len(m.Answer) == 0 {
		m.Ns = []dns.RR{soa(name)}
	}
	return m
}

// view is the world as one org sees it.
type view struct {
	Source
	peers       func(org string) []Peer
	org, region string
}

func (v view) find(name string) found {
	if a, ok := reverseAddr(name); ok {
		return v.reverse(a)
	}
	labels := dns.SplitDomainName(name)
	top := labels[len(labels)-1]
	if top != "internal" {
		return v.service(labels[:len(labels)-1])
	}
	return v.internal(labels[:len(labels)-1])
}

// service answers <app>.flycast, whether or not a machine of the app is started.
func (v view) service(labels []string) found {
	if len(labels) == 0 {
		return found{exists: true}
	}
	if len(labels) > 1 || !v.Has(v.org, labels[0]) {
		return found{}
	}
	return found{exists: true, addr: v.Service(v.org, labels[0])}
}

func (v view) internal(labels []string) found {
	if len(labels) == 0 {
		return found{exists: true}
	}
	last := labels[len(labels)-1]
	if len(labels) == 1 && last == "_apps" {
		return found{exists: true, text: strings.Join(v.sortedApps(), ",")}
	}
	if len(labels) == 1 && last == "_instances" {
		return found{exists: true, text: v.instances()}
	}
	if last == "_peer" {
		return v.inPeers(labels[:len(labels)-1])
	}
	if !v.Has(v.org, last) {
		return found{}
	}
	return v.inApp(labels[:len(labels)-1], v.Machines(v.org, last))
}

// inApp answers the part of a name before the app.
func (v view) inApp(labels []string, all []Machine) found {
	switch path := strings.Join(labels, "."); {
	case path == "" || path == "global":
		return found{exists: true, machines: all}
	case path == "vms":
		return found{exists: true, text: listMachines(started(all))}
	case path == "all.vms":
		return found{exists: true, text: listMachines(all)}
	case path == "regions":
		return found{exists: true, text: strings.Join(regions(started(all)), ",")}
	}
	return v.chosen(labels, all)
}

// chosen answers names that stand for some of the app's machines.
func (v view) chosen(labels []string, all []Machine) found {
	pattern := strings.Join(labels[1:], ".")
	switch {
	case pattern == "":
		return pick(all, func(m Machine) bool { return strings.EqualFold(m.Region, labels[0]) })
	case pattern == "vm":
		return pick(all, func(m Machine) bool { return strings.EqualFold(m.ID, labels[0]) })
	case pattern == "process":
		return pick(all, func(m Machine) bool { return strings.EqualFold(m.Group, labels[0]) })
	case pattern == "nearest.of":
		return v.nearest(labels[0], all)
	case len(labels) == 4 && strings.HasSuffix(pattern, ".kv._metadata"):
		return pick(all, func(m Machine) bool { return hasMetadata(m, labels[1], labels[0]) })
	}
	return found{}
}

// pick says that the name exists if any machine, started or not, is meant.
func pick(all []Machine, meant func(Machine) bool) found {
	var f found
	for _, m := range all {
		if meant(m) {
			f.exists, f.machines = true, append(f.machines, m)
		}
	}
	return f
}

// hasMetadata compares as names do, without regard to case.
func hasMetadata(m Machine, key, value string) bool {
	for k, v := range m.Metadata {
		if strings.EqualFold(k, key) && strings.EqualFold(v, value) {
			return true
		}
	}
	return false
}

// nearest reads "top3": the three started machines that are closest.
func (v view) nearest(label string, all []Machine) found {
	digits, ok := strings.CutPrefix(label, "top")
	k, err := strconv.Atoi(digits)
	if !ok || err != nil || k < 1 {
		return found{}
	}
	near := started(all)
	slices.SortStableFunc(near, func(a, b Machine) int {
		return cmp.Or(cmp.Compare(a.RTT, b.RTT), cmp.Compare(v.away(a), v.away(b)), cmp.Compare(a.ID, b.ID))
	})
	return found{exists: true, machines: near[:min(k, len(near))], sorted: true}
}

func (v view) away(m Machine) int {
	if m.Region == v.region {
		return 0
	}
	return 1
}

func (v view) sortedApps() []string {
	apps := slices.Clone(v.Apps(v.org))
	slices.Sort(apps)
	return apps
}

// instances looks at no more apps than an answer has room for.
func (v view) instances() string {
	var b strings.Builder
	for _, app := range v.sortedApps() {
		if b.Len() > textMax {
			break
		}
		for _, m := range started(v.Machines(v.org, app)) {
			if b.Len() > 0 {
				b.WriteByte(';')
			}
			b.WriteString("instance=" + m.ID + ",app=" + app + ",ip=" + addrText(m.IPv6) + ",region=" + m.Region)
		}
	}
	return b.String()
}

func addrText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func started(all []Machine) []Machine {
	return slices.DeleteFunc(slices.Clone(all), func(m Machine) bool { return !m.Started })
}

func listMachines(all []Machine) string {
	var parts []string
	for _, m := range all {
		parts = append(parts, m.ID+" "+m.Region)
	}
	slices.Sort(parts)
	return strings.Join(parts, ",")
}

func regions(all []Machine) []string {
	var names []string
	for _, m := range all {
		names = append(names, m.Region)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// records are the ones of the type asked for. There is no A: the private
// network is IPv6.
func (f found) records(q dns.Question) []dns.RR {
	var rrs []dns.RR
	head := func(t uint16) dns.RR_Header {
		return dns.RR_Header{Name: q.Name, Rrtype: t, Class: dns.ClassINET, Ttl: internalTTL}
	}
	asked := func(t uint16) bool { return q.Qtype == t || q.Qtype == dns.TypeANY }
	if asked(dns.TypeAAAA) {
		for _, a := range f.addrs() {
			rrs = append(rrs, &dns.AAAA{Hdr: head(dns.TypeAAAA), AAAA: a.AsSlice()})
		}
	}
	if asked(dns.TypeTXT) && f.text != "" {
		rrs = append(rrs, &dns.TXT{Hdr: head(dns.TypeTXT), Txt: textChunks(f.text)})
	}
	if asked(dns.TypePTR) && f.pointer != "" {
		rrs = append(rrs, &dns.PTR{Hdr: head(dns.TypePTR), Ptr: f.pointer})
	}
	return rrs
}

// addrs are those of started machines, in random order to spread the load.
func (f found) addrs() []netip.Addr {
	var addrs []netip.Addr
	if f.addr.IsValid() {
		addrs = append(addrs, f.addr)
	}
	for _, m := range f.machines {
		if m.Started && m.IPv6.Is6() {
			addrs = append(addrs, m.IPv6)
		}
	}
	if !f.sorted {
		rand.Shuffle(len(addrs), func(i, j int) { addrs[i], addrs[j] = addrs[j], addrs[i] })
	}
	return addrs
}

// textMax leaves room for the rest of the largest message there is.
const textMax = 60000

// textChunks cuts a text into the 255-byte strings of a TXT record. Backslashes
// and quotes are escaped, since the library reads its strings as zone files do.
func textChunks(s string) []string {
	s = s[:min(len(s), textMax)]
	var chunks []string
	for len(s) > 0 {
		k := min(len(s), 255)
		chunks = append(chunks, escapeText(s[:k]))
		s = s[k:]
	}
	return chunks
}

var escapeText = strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace

// soa goes with every answer that is empty, so that it may be remembered for as
// long as one that is not.
func soa(name string) dns.RR {
	zone := name
	for _, top := range []string{"internal.", "flycast."} {
		if dns.IsSubDomain(top, name) {
			zone = top
		}
	}
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: zone, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: internalTTL},
		Ns:  "ns.internal.", Mbox: "hostmaster.internal.",
		Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: internalTTL,
	}
}
