package dns

import (
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	maxTTL         = time.Hour
	maxNegativeTTL = 5 * time.Minute
)

// question is what an upstream answer depends on.
type question struct {
	name   string
	qtype  uint16
	do, cd bool
}

type cached struct {
	msg             *dns.Msg
	stored, expires time.Time
}

// cache keeps answers for their TTL. When full it drops any one: map order is
// random enough, and costs no bookkeeping on a hit.
type cache struct {
	size int
	now  func() time.Time

	mu      sync.Mutex // guards entries
	entries map[question]cached
}

func newCache(size int) *cache {
	return &cache{size: size, now: time.Now, entries: map[question]cached{}}
}

// get returns a copy with the TTLs that are left.
func (c *cache) get(q question) (*dns.Msg, bool) {
	c.mu.Lock()
	e, ok := c.entries[q]
	c.mu.Unlock()
	now := c.now()
	if !ok || !now.Before(e.expires) {
		return nil, false
	}
	m := e.msg.Copy()
	age := uint32(now.Sub(e.stored) / time.Second)
	eachRecord(m, func(h *dns.RR_Header) { h.Ttl -= min(age, h.Ttl) })
	return m, true
}

func (c *cache) put(q question, m *dns.Msg) {
	ttl := lifetime(m)
	if ttl <= 0 {
		return
	}
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, there := c.entries[q]; !there && len(c.entries) >= c.size {
		for victim := range c.entries {
			delete(c.entries, victim)
			break
		}
	}
	c.entries[q] = cached{m.Copy(), now, now.Add(ttl)}
}

// lifetime is how long an answer may be kept: 0 for one that may not.
func lifetime(m *dns.Msg) time.Duration {
	if m.Truncated || m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
		return 0
	}
	if len(m.Answer) == 0 || m.Rcode == dns.RcodeNameError {
		return negativeLifetime(m)
	}
	ttl := uint32(maxTTL / time.Second)
	eachRecord(m, func(h *dns.RR_Header) { ttl = min(ttl, h.Ttl) })
	return time.Duration(ttl) * time.Second
}

// negativeLifetime follows RFC 2308: no SOA, no caching.
func negativeLifetime(m *dns.Msg) time.Duration {
	for _, rr := range m.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			return min(time.Duration(min(soa.Hdr.Ttl, soa.Minttl))*time.Second, maxNegativeTTL)
		}
	}
	return 0
}

// eachRecord visits every record with a TTL; that of OPT means something else.
func eachRecord(m *dns.Msg, visit func(*dns.RR_Header)) {
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			if h := rr.Header(); h.Rrtype != dns.TypeOPT {
				visit(h)
			}
		}
	}
}
