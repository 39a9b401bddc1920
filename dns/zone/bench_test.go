package zone

import (
	"fmt"
	"testing"

	"github.com/miekg/dns"
)

// shared is a cloud whose edges are not copied for each question.
type shared struct{ *cloud }

func (s shared) Edges() []Edge { return s.edges }

// BenchmarkThousandEdges answers with an address, and that there is no such name.
func BenchmarkThousandEdges(b *testing.B) {
	c := world()
	for i := range 1000 {
		c.edges = append(c.edges, edge(fmt.Sprint("n", i), []string{"iad", "fra", "syd"}[i%3], i%250))
	}
	cfg := config(c)
	cfg.Source = shared{c}
	s := run(b, cfg)
	for _, name := range []string{"shop.", "nothing."} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				s.answer(c.edges[1].IPv4[0], dns.Question{Name: name + zone, Qtype: dns.TypeA, Qclass: dns.ClassINET})
			}
		})
	}
}
