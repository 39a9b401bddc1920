package dns

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

const (
	// udpSize is what we accept and send over UDP: it fits one packet on any path.
	udpSize = 1232
	// maxPerAsker bounds what one machine may have under way upstream, and of
	// private names.
	maxPerAsker = 100
	// minTries is how often we ask, even with one upstream: UDP may get lost.
	minTries = 2
)

var (
	errOtherQuestion = errors.New("the answer is to another question")
	errNoUpstream    = errors.New("no upstream resolver is known: check /etc/resolv.conf of the host")
)

// forward answers a name of the world: from the cache, or from upstream.
func (s *Server) forward(ctx context.Context, from netip.Addr, q *dns.Msg) *dns.Msg {
	key := questionOf(q)
	if m, ok := s.cache.get(key); ok {
		return m
	}
	who := asker{from, false}
	if !s.enter(who) {
		return failure(dns.RcodeRefused)
	}
	defer s.leave(who)
	m, err := s.ask(ctx, upstreamQuery(q))
	if err != nil {
		s.log.Debug("cannot resolve", "name", key.name, "type", dns.TypeToString[key.qtype], "err", err)
		return failure(dns.RcodeServerFailure)
	}
	s.cache.put(key, m)
	return m
}

func questionOf(q *dns.Msg) question {
	opt := q.IsEdns0()
	return question{strings.ToLower(q.Question[0].Name), q.Question[0].Qtype, opt != nil && opt.Do(), q.CheckingDisabled}
}

// upstreamQuery carries over what matters and nothing that tells who asks.
func upstreamQuery(q *dns.Msg) *dns.Msg {
	m := new(dns.Msg)
	m.Id = dns.Id()
	m.RecursionDesired = true
	m.CheckingDisabled = q.CheckingDisabled
	m.Question = []dns.Question{q.Question[0]}
	m.SetEdns0(udpSize, questionOf(q).do)
	return m
}

func failure(rcode int) *dns.Msg {
	return &dns.Msg{MsgHdr: dns.MsgHdr{Rcode: rcode}}
}

// asker is a machine that asks. What it waits for from the world does not keep it
// from private names.
type asker struct {
	addr    netip.Addr
	private bool
}

// enter keeps one machine from taking the resolver from all others.
func (s *Server) enter(from asker) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asking[from] >= maxPerAsker {
		return false
	}
	s.asking[from]++
	return true
}

func (s *Server) leave(from asker) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asking[from]--; s.asking[from] == 0 {
		delete(s.asking, from)
	}
}

type reply struct {
	from string
	msg  *dns.Msg
	err  error
}

// ask takes the first good answer. The next upstream is asked when one fails, or
// is a quarter of its time without answer.
func (s *Server) ask(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	ups := s.upstreams.current()
	if len(ups) == 0 {
		return nil, errNoUpstream
	}
	for len(ups) < minTries {
		ups = append(ups, ups...)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*s.cfg.Timeout)
	defer cancel()
	replies := make(chan reply, len(ups))
	patience := time.NewTicker(s.cfg.Timeout / 4)
	defer patience.Stop()
	return s.race(ctx, q, ups, replies, patience.C)
}

func (s *Server) race(ctx context.Context, q *dns.Msg, ups []string, replies chan reply, impatient <-chan time.Time) (*dns.Msg, error) {
	last := reply{err: errNoUpstream}
	for waiting := 0; ; {
		if len(ups) > 0 {
			s.launch(ctx, ups[0], q.Copy(), replies)
			ups, waiting = ups[1:], waiting+1
		}
		if waiting == 0 {
			return last.msg, last.err
		}
		select {
		case r := <-replies:
			waiting--
			if r.good() {
				s.upstreams.prefer(r.from)
				return r.msg, nil
			}
			last = r
		case <-impatient:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (r reply) good() bool {
	return r.err == nil && (r.msg.Rcode == dns.RcodeSuccess || r.msg.Rcode == dns.RcodeNameError)
}

func (s *Server) launch(ctx context.Context, up string, q *dns.Msg, replies chan<- reply) {
	s.asks.Go(func() {
		m, err := s.exchange(ctx, up, q)
		replies <- reply{up, m, err}
	})
}

// exchange asks one upstream over UDP, and over TCP if the answer did not fit.
func (s *Server) exchange(ctx context.Context, up string, q *dns.Msg) (*dns.Msg, error) {
	for _, network := range []string{"udp", "tcp"} {
		m, err := exchangeOver(ctx, network, up, q, s.cfg.Timeout)
		if err != nil && (m == nil || !m.Truncated) {
			return nil, err
		}
		if !answers(m, q) {
			return nil, errOtherQuestion
		}
		if !m.Truncated {
			return m, nil
		}
	}
	return nil, errors.New("the answer does not fit even TCP")
}

// exchangeOver stops at once when ctx does.
func exchangeOver(ctx context.Context, network, up string, q *dns.Msg, timeout time.Duration) (*dns.Msg, error) {
	c := dns.Client{Net: network, Timeout: timeout, UDPSize: udpSize}
	conn, err := c.DialContext(ctx, up)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	m, _, err := c.ExchangeWithConnContext(ctx, q, conn)
	return m, err
}

func answers(m, q *dns.Msg) bool {
	return m.Response && len(m.Question) == 1 && m.Question[0].Qtype == q.Question[0].Qtype &&
		m.Question[0].Qclass == q.Question[0].Qclass && strings.EqualFold(m.Question[0].Name, q.Question[0].Name)
}
