package app

import (
	"strings"
	"sync"
	"testing"
)

func TestOrgNumbers(t *testing.T) {
	dir := t.TempDir()
	s, c := open(t, dir, Config{})
	if n := s.OrgNumber("acme"); n != 0 {
		t.Errorf("an org that nobody has heard of has number %d", n)
	}
	create(t, s, "shop")
	first := s.OrgNumber("personal")
	if first == 0 {
		t.Error("the org of an app has no number")
	}
	seen := map[uint32]string{first: "personal"}
	for _, org := range []string{"acme", "globex", "initech"} {
		var wg sync.WaitGroup
		numbers := make([]uint32, 8)
		for i := range numbers {
			wg.Go(func() { numbers[i], _ = s.EnsureOrg(t.Context(), org) })
		}
		wg.Wait()
		for _, n := range numbers {
			if n != s.OrgNumber(org) || n == 0 {
				t.Errorf("org %q was given number %d and has %d", org, n, s.OrgNumber(org))
			}
		}
		if other, ok := seen[numbers[0]]; ok {
			t.Errorf("orgs %q and %q have one number", org, other)
		}
		seen[numbers[0]] = org
	}
	c.Close()
	s, _ = open(t, dir, Config{})
	if n := s.OrgNumber("personal"); n != first {
		t.Errorf("after a restart the number is %d, it was %d", n, first)
	}
}

func TestOrgNumberRefusesBadNames(t *testing.T) {
	s, _ := open(t, t.TempDir(), Config{})
	for _, org := range []string{"", "a.b", "a b", "*", strings.Repeat("x", 600)} {
		if n, err := s.EnsureOrg(t.Context(), org); err == nil || s.OrgNumber(org) != 0 {
			t.Errorf("org %q was given number %d", org, n)
		}
	}
}
