//go:build linux

package resolver

import (
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// key is what an answer is for.
type key struct {
	name   string
	kind   uint16
	subnet netip.Prefix
}

type entry struct {
	msg   *dns.Msg
	began time.Time
	ttl   time.Duration
}

// cache remembers answers as long as they say.
type cache struct {
	mu      sync.Mutex // guards entries
	entries map[key]entry
}

// cacheMax bounds the memory; a full cache starts anew.
const cacheMax = 4096

func (c *cache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.entries = nil
}

// get returns an answer with the time that it still has.
func (c *cache) get(k key, now time.Time) *dns.Msg {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[k]
	age := now.Sub(e.began)
	if !ok || age >= e.ttl {
		return nil
	}
	m := e.msg.Copy()
	for _, rr := range m.Answer {
		rr.Header().Ttl -= min(rr.Header().Ttl, uint32(age/time.Second))
	}
	return m
}

func (c *cache) put(k key, m *dns.Msg, now time.Time) {
	ttl := lifetime(m)
	if ttl == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries == nil || len(c.entries) >= cacheMax {
		c.entries = map[key]entry{}
	}
	c.entries[k] = entry{m.Copy(), now, ttl}
}

// lifetime is the shortest TTL of an answer; without one it is what the zone
// says of names that do not exist.
func lifetime(m *dns.Msg) time.Duration {
	ttl, known := uint32(0), false
	for _, rr := range m.Answer {
		if !known || rr.Header().Ttl < ttl {
			ttl, known = rr.Header().Ttl, true
		}
	}
	for _, rr := range m.Ns {
		if soa, ok := rr.(*dns.SOA); ok && !known {
			ttl, known = min(soa.Hdr.Ttl, soa.Minttl), true
		}
	}
	return time.Duration(ttl) * time.Second
}
