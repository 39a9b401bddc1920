package mesh

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Problem is something the host lacks for machine networks, or that another
// program does to them.
type Problem struct {
	// Name is short and stays the same, as "nftables".
	Name string
	// Detail says what was found.
	Detail string
	// Cure says what to do, a command where one will do.
	Cure string
	// Fatal tells problems that stop machines from those that limit them.
	Fatal bool
}

// Check looks for problems without changing anything that lasts. The prefix is
// that of [Config], "perigee" if empty. The next check goes into the table.
func Check(ctx context.Context, prefix string) []Problem {
	if prefix == "" {
		prefix = "perigee"
	}
	if unix.Geteuid() != 0 {
		return []Problem{{"root", "machine networks need root", "run as root or with sudo", true}}
	}
	var found []Problem
	for _, check := range []func(prefix string) []Problem{
		checkNamespaces, checkDevices, checkForwarding, checkIPv6, checkNftables, checkConntrack, checkOtherFirewalls, checkLegacyIptables,
	} {
		if ctx.Err() != nil {
			break
		}
		found = append(found, check(prefix)...)
	}
	return found
}

func checkNamespaces(string) []Problem {
	err := onOwnThread(func() error { return unix.Unshare(unix.CLONE_NEWNET) })
	if err == nil {
		return nil
	}
	return []Problem{{"namespaces", fmt.Sprintf("cannot make a network namespace: %v", err),
		"run with CAP_SYS_ADMIN, on a kernel with CONFIG_NET_NS", true}}
}

// checkDevices tries in a namespace of its own, so nothing stays.
func checkDevices(string) []Problem {
	err := scratch(func(h *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "a"
		veth := netlink.NewVeth(attrs)
		veth.PeerName = "b"
		return h.LinkAdd(veth)
	})
	if err == nil {
		return nil
	}
	return []Problem{{"veth", fmt.Sprintf("cannot make a veth pair: %v", err), "modprobe veth", true}}
}

func checkForwarding(string) []Problem {
	if sysctl("net/ipv4/ip_forward") == "1" || unix.Access("/proc/sys/net/ipv4/ip_forward", unix.W_OK) == nil && !readOnly("/proc/sys") {
		return nil
	}
	return []Problem{{"forwarding", "net.ipv4.ip_forward is 0 and cannot be changed here",
		"sysctl -w net.ipv4.ip_forward=1 on the host", true}}
}

func readOnly(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Flags&unix.ST_RDONLY != 0
}

func checkIPv6(string) []Problem {
	if hostHasIPv6() {
		return nil
	}
	return []Problem{{"ipv6", "IPv6 is switched off: machines get IPv4 only, and .internal names have no address",
		"sysctl -w net.ipv6.conf.all.disable_ipv6=0, and boot without ipv6.disable=1", false}}
}

// checkNftables loads our real table, in a namespace of its own.
func checkNftables(prefix string) []Problem {
	err := scratch(func(*netlink.Handle) error {
		return (&Network{cfg: Config{Prefix: prefix, IPv6: defaultIPv6}, pool: pools[0]}).applyFirewall()
	})
	if err == nil {
		return nil
	}
	return []Problem{{"nftables", err.Error(), "modprobe -a nf_tables nft_ct nft_nat nft_masq nft_fib_inet nft_reject_inet", true}}
}

func checkConntrack(string) []Problem {
	err := scratch(func(h *netlink.Handle) error {
		_, err := h.ConntrackTableList(netlink.ConntrackTable, netlink.FAMILY_V4)
		return err
	})
	if err == nil || errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil
	}
	return []Problem{{"conntrack", fmt.Sprintf("cannot read tracked connections: %v", err), "modprobe -a nf_conntrack nf_conntrack_netlink", true}}
}

// scratch runs f in a namespace that is gone afterwards.
func scratch(f func(*netlink.Handle) error) error {
	return onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE, unix.NETLINK_NETFILTER)
		if err != nil {
			return err
		}
		defer h.Close()
		return f(h)
	})
}

// checkOtherFirewalls looks for chains that drop what they do not know: an
// accept in our table does not overrule them.
func checkOtherFirewalls(prefix string) []Problem {
	c, err := nftables.New()
	if err != nil {
		return nil
	}
	chains, err := c.ListChains()
	if err != nil {
		return nil
	}
	var found []Problem
	for _, ch := range chains {
		if ch.Table.Name == prefix || ch.Hooknum == nil || ch.Policy == nil || *ch.Policy != nftables.ChainPolicyDrop {
			continue
		}
		if p, ok := droppingChain(ch, prefix); ok {
			found = append(found, p)
		}
	}
	return found
}

func droppingChain(ch *nftables.Chain, prefix string) (Problem, bool) {
	where := fmt.Sprintf("chain %q of firewall table %q drops what it does not know", ch.Name, ch.Table.Name)
	switch *ch.Hooknum {
	case *nftables.ChainHookForward:
		return Problem{"forward policy", where + ": machines may not reach the internet or each other",
			fmt.Sprintf("iptables -I %[1]s -i %[2]s-+ -j ACCEPT; iptables -I %[1]s -o %[2]s-+ -j ACCEPT (and ip6tables); firewalld: put %[2]s-+ in a zone that accepts", forwardChain(ch), prefix), false}, true
	case *nftables.ChainHookInput:
		return Problem{"input policy", where + ": machines may not reach the resolver",
			fmt.Sprintf("iptables -I INPUT -i %s-+ -j ACCEPT (and ip6tables): our own table still keeps machines from the host's ports", prefix), false}, true
	}
	return Problem{}, false
}

// forwardChain is where Docker leaves room for the rules of others.
func forwardChain(ch *nftables.Chain) string {
	c, err := nftables.New()
	if err != nil {
		return "FORWARD"
	}
	if user, err := c.ListChain(ch.Table, "DOCKER-USER"); err == nil && user != nil {
		return "DOCKER-USER"
	}
	return "FORWARD"
}

// checkLegacyIptables names a firewall that we cannot look into.
func checkLegacyIptables(prefix string) []Problem {
	for _, file := range []string{"/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"} {
		names, err := os.ReadFile(file)
		if err != nil || !strings.Contains("\n"+string(names), "\nfilter\n") {
			continue
		}
		return []Problem{{"legacy iptables", "rules of iptables-legacy are loaded, which may drop what they do not know",
			fmt.Sprintf("if `iptables-legacy -S FORWARD` says DROP: iptables-legacy -I FORWARD -i %[1]s-+ -j ACCEPT; iptables-legacy -I FORWARD -o %[1]s-+ -j ACCEPT", prefix), false}}
	}
	return nil
}
