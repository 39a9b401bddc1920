package router

import (
	"net/netip"
	"slices"
	"testing"
)

// FuzzCookie: whatever the header says, it leads to a machine of the service or to none.
func FuzzCookie(f *testing.F) {
	r := &Router{cfg: Config{StickyKey: stickyKey([]byte("key"))}}
	tg := &target{app: &appRoute{name: "shop"}, spots: []spot{{id: "m1"}, {id: "m2"}}}
	r.giveTokens(tg)
	f.Add("a=b; " + stickyCookie + "=" + tg.spots[1].token + "; c")
	f.Add(stickyCookie + "=;;=; " + stickyCookie)
	f.Fuzz(func(t *testing.T, cookie string) {
		if id := string(tg.stickTo([]byte(cookie))); id != "" && id != "m1" && id != "m2" {
			t.Errorf("%q leads to %q", cookie, id)
		}
	})
}

// FuzzForwardedFor: of whatever a trusted proxy says, a machine is told an address.
func FuzzForwardedFor(f *testing.F) {
	r := &Router{cfg: Config{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}}
	for _, via := range []string{"8.8.8.8, 9.9.9.9, 10.1.1.1", "::1,fe80::1%eth0 , 10.2.3.4", "10.0.0.1", ",,", "unknown"} {
		f.Add(via)
	}
	f.Fuzz(func(t *testing.T, via string) {
		got := r.firstStranger([]byte(via), "192.0.2.1")
		if a, err := netip.ParseAddr(got); err != nil || a.Zone() != "" || slices.Contains([]byte(got), '\n') {
			t.Errorf("%q gives %q", via, got)
		}
	})
}
