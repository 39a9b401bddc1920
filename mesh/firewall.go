package mesh

import (
	"errors"
	"fmt"
	"slices"
	"syscall"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/mdlayher/netlink"
)

// batchElements keeps an element message below netlink's 64 KiB for one attribute.
const batchElements = 256

// firewallBuffer holds the transaction for as many orgs as a pool has slots.
const firewallBuffer = 16 << 20

// firewall is our table. The kernel's routes say what a slot may send from, and
// its device's group says whose it is, so a slot costs no change here. The sets:
//
//	orgs   {org . org}         to compare the groups of two devices by one lookup
//	ports  {port}              TCP ports of the host that are open to machines
//	remote {number . org}      what number the org has in addresses of other nodes
//	laptops {number . number}  orgs whose laptops enter the mesh here
type firewall struct {
	table           *nftables.Table
	orgs, ports     *nftables.Set
	remote, laptops *nftables.Set
}

func (n *Network) firewall() firewall {
	t := &nftables.Table{Family: nftables.TableFamilyINet, Name: n.cfg.Prefix}
	return firewall{
		table: t,
		orgs:  &nftables.Set{Table: t, ID: 1, Name: "orgs", KeyType: nftables.MustConcatSetType(nftables.TypeDevGroup, nftables.TypeDevGroup)},
		ports: &nftables.Set{Table: t, ID: 2, Name: "ports", KeyType: nftables.TypeInetService},

		remote:  &nftables.Set{Table: t, ID: 3, Name: "remote", KeyType: nftables.MustConcatSetType(nftables.TypeInteger, nftables.TypeDevGroup)},
		laptops: &nftables.Set{Table: t, ID: 4, Name: "laptops", KeyType: nftables.MustConcatSetType(nftables.TypeInteger, nftables.TypeInteger)},
	}
}

// applyFirewall replaces our table, with what every slot may do, in one
// transaction: no packet passes in between that should not.
func (n *Network) applyFirewall() error {
	f := n.firewall()
	c, err := nftables.New(nftables.WithSockOptions(func(c *netlink.Conn) error {
		return c.SetWriteBuffer(firewallBuffer)
	}))
	if err != nil {
		return fmt.Errorf("cannot open nftables: %w", err)
	}
	c.AddTable(f.table)
	c.DelTable(f.table)
	c.AddTable(f.table)
	if err := n.addSets(c, f); err != nil {
		return fmt.Errorf("cannot build firewall: %w", err)
	}
	n.addRules(c, f)
	if err := c.Flush(); err != nil {
		return fmt.Errorf("cannot load firewall: %w: the kernel needs nf_tables with inet, nat, conntrack, reject, socket and tproxy", err)
	}
	return nil
}

func (n *Network) addSets(c *nftables.Conn, f firewall) error {
	var orgs, remote, ports []nftables.SetElement
	for name, o := range n.orgs {
		if name == "" { // isolated slots: their group is a friend of none
			continue
		}
		orgs = append(orgs, orgElement(o.group))
		if o.number != 0 {
			remote = append(remote, remoteElement(*o))
		}
	}
	for _, p := range n.cfg.HostPorts {
		ports = append(ports, nftables.SetElement{Key: binaryutil.BigEndian.PutUint16(p)})
	}
	return errors.Join(fill(c, f.orgs, orgs), fill(c, f.ports, ports), fill(c, f.remote, remote), fill(c, f.laptops, laptopElements(numbers(n.peers))))
}

func fill(c *nftables.Conn, s *nftables.Set, elems []nftables.SetElement) error {
	if err := c.AddSet(s, nil); err != nil {
		return err
	}
	for some := range slices.Chunk(elems, batchElements) {
		if err := c.SetAddElements(s, some); err != nil {
			return err
		}
	}
	return nil
}

func orgElement(group uint32) nftables.SetElement {
	g := binaryutil.NativeEndian.PutUint32(group)
	return nftables.SetElement{Key: append(g, g...)}
}

// admitOrg lets the devices of a group reach each other, and the org elsewhere.
func (n *Network) admitOrg(o org) error {
	return n.changeOrgs(func(c *nftables.Conn, f firewall) error {
		return errors.Join(c.SetAddElements(f.orgs, []nftables.SetElement{orgElement(o.group)}),
			c.SetAddElements(f.remote, []nftables.SetElement{remoteElement(o)}))
	})
}

// expelOrg is for a group without devices. The kernel takes its time over it.
func (n *Network) expelOrg(o org) error {
	err := n.changeOrgs(func(c *nftables.Conn, f firewall) error {
		err := c.SetDeleteElements(f.orgs, []nftables.SetElement{orgElement(o.group)})
		if o.number != 0 {
			err = errors.Join(err, c.SetDeleteElements(f.remote, []nftables.SetElement{remoteElement(o)}))
		}
		return err
	})
	if errors.Is(err, syscall.ENOENT) {
		return nil
	}
	return err
}

func (n *Network) changeOrgs(change func(*nftables.Conn, firewall) error) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("cannot open nftables: %w", err)
	}
	if err := change(c, n.firewall()); err != nil {
		return fmt.Errorf("cannot build firewall change: %w", err)
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("cannot change orgs in firewall table %q: %w: if it was removed by hand, restart the node", n.cfg.Prefix, err)
	}
	return nil
}

func (n *Network) removeFirewall() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("cannot open nftables: %w", err)
	}
	f := n.firewall()
	c.AddTable(f.table) // so that removing it never fails for want of it
	c.DelTable(f.table)
	if err := c.Flush(); err != nil && !errors.Is(err, syscall.ENOENT) {
		return fmt.Errorf("cannot remove firewall: %w", err)
	}
	return nil
}

// ifname is a device's name as nftables keeps it.
func ifname(dev string) []byte {
	b := make([]byte, syscall.IFNAMSIZ)
	copy(b, dev)
	return b
}
