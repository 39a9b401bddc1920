package cluster

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// nodesOf reads "a/iad+" as node a in iad: + a member, - draining, x removed,
// ! without the role state, 5 wants five members. Each joined after the one
// before it.
func nodesOf(s string) []Node {
	var out []Node
	for i, f := range strings.Fields(s) {
		name, rest, _ := strings.Cut(f, "/")
		n := Node{Name: name, Region: rest[:3], Roles: Roles(), JoinedAt: time.Unix(int64(i), 0)}
		for _, m := range rest[3:] {
			switch m {
			case '+':
				n.Member = true
			case '-':
				n.Draining = true
			case 'x':
				n.Removed = true
			case '!':
				n.Roles = []string{RoleHost}
			case '1', '5':
				n.WantMembers = int(m - '0')
			default:
				panic(fmt.Sprint("unknown mark in ", f))
			}
		}
		out = append(out, n)
	}
	return out
}

func TestMembers(t *testing.T) {
	for _, c := range []struct{ why, nodes, want string }{
		{"nobody", "", ""},
		{"one", "a/iad+", "a"},
		{"one may only begin alone", "a/iad", "a"},
		{"two are no better than one", "a/iad+ b/fra", "a"},
		{"three", "a/iad+ b/fra c/syd", "a b c"},
		{"three with the role", "a/iad+ b/fra! c/syd", "a"},
		{"four: three regions first", "a/iad+ b/iad c/fra d/syd", "a c d"},
		{"four: the present stay", "a/iad+ b/iad+ c/fra+ d/syd", "a b c"},
		{"two regions, the oldest", "a/iad+ b/iad c/iad d/fra e/fra", "a b d"},
		{"five nodes, three by default", "a/iad+ b/fra+ c/syd+ d/gru e/nrt", "a b c"},
		{"five wanted", "a/iad+5 b/fra+ c/syd+ d/gru e/nrt", "a b c d e"},
		{"five wanted by any state node", "a/iad+ b/fra+ c/syd+ d/gru e/nrt5", "a b c d e"},
		{"five wanted, four there", "a/iad+5 b/fra+ c/syd+ d/gru", "a b c"},
		{"one wanted", "a/iad+1 b/fra c/syd", "a"},
		{"too many: one a region stays", "a/iad+ b/iad+ c/fra+ d/syd+", "a c d"},
		{"removed: a replacement", "a/iad+ b/fra+x c/syd+ d/gru", "a c d"},
		{"removed: of the region that has none", "a/iad+ b/fra+x c/syd+ d/iad e/nrt", "a c e"},
		{"removed: nobody left to replace it", "a/iad+ b/fra+x c/syd+", "a c"},
		{"two that are left and one that comes", "a/iad+ c/syd+ d/gru", "a c d"},
		{"one of two drains", "a/iad+ c/syd+-", "a"},
		{"one of two is removed", "a/iad+ c/syd+x", "a"},
		{"one of five is removed", "a/iad+5 b/fra+5 c/syd+ d/gru+ e/nrt+x", "a b c d"},
		{"two of five are removed", "a/iad+5 b/fra+5 c/syd+ d/gru+x e/nrt+x", "a b c"},
		{"one is wanted of two", "a/iad+1 c/syd+", "a"},
		{"draining: replaced", "a/iad+ b/fra+- c/syd+ d/gru", "a c d"},
		{"draining: stays where nobody can replace it", "a/iad+ b/fra+- c/syd+", "a b c"},
		{"draining: never chosen anew", "a/iad+ b/fra- c/syd d/gru-", "a"},
		{"the only member drains to another", "a/iad+- b/fra", "b"},
		{"the only node drains", "a/iad+-", "a"},
		{"all drain", "a/iad+- b/fra-", "a"},
	} {
		nodes := nodesOf(c.nodes)
		if got := strings.Join(Members(nodes), " "); got != c.want {
			t.Errorf("%s: %s gives %q, want %q", c.why, c.nodes, got, c.want)
		}
		for i, j := 0, len(nodes)-1; i < j; i, j = i+1, j-1 {
			nodes[i], nodes[j] = nodes[j], nodes[i]
		}
		if got := strings.Join(Members(nodes), " "); got != c.want {
			t.Errorf("%s, in another order: %q, want %q", c.why, got, c.want)
		}
	}
}

// TestMembersSettle: what was chosen is chosen again.
func TestMembersSettle(t *testing.T) {
	nodes := nodesOf("a/iad+ b/iad c/fra d/syd5 e/nrt f/gru g/gru-")
	first := Members(nodes)
	for i := range nodes {
		nodes[i].Member = strings.Contains(strings.Join(first, " "), nodes[i].Name)
	}
	if got := Members(nodes); strings.Join(got, " ") != strings.Join(first, " ") {
		t.Errorf("first %v, then %v", first, got)
	}
}
