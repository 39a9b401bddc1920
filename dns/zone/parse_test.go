package zone

import (
	"slices"
	"strings"
	"testing"
)

func TestParseNameServer(t *testing.T) {
	ns, err := ParseNameServer("ns1.apps.example.com=192.0.2.53,2001:db8::53")
	if err != nil || ns.Name != "ns1.apps.example.com" || !slices.Equal(ns.Addrs, addrs("192.0.2.53", "2001:db8::53")) {
		t.Errorf("got %+v, %v", ns, err)
	}
	if ns, err := ParseNameServer("ns.elsewhere.example"); err != nil || ns.Addrs != nil {
		t.Errorf("got %+v, %v", ns, err)
	}
	for _, bad := range []string{"", "=192.0.2.1", "a b", "ns1.example.com=", "ns1.example.com=x", "ns1.example.com=fe80::1%lo", "ns1..com"} {
		if ns, err := ParseNameServer(bad); err == nil || !strings.Contains(err.Error(), "cannot use name server") {
			t.Errorf("%q: %+v, %v", bad, ns, err)
		}
	}
}

// FuzzNameServer: what is taken has a name and addresses that can be answered.
func FuzzNameServer(f *testing.F) {
	f.Add("ns1.apps.example.com=192.0.2.53,2001:db8::53")
	f.Add("ns.elsewhere.example")
	f.Fuzz(func(t *testing.T, s string) {
		ns, err := ParseNameServer(s)
		if err != nil {
			return
		}
		for _, rr := range records("x.", ns.Addrs, 1) {
			if rr.Header().Name != "x." {
				t.Error(rr)
			}
		}
		if _, err := fullName(ns.Name); err != nil {
			t.Error(err)
		}
	})
}
