package mesh

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/mdlayher/netlink"
)

// batchElements keeps an element message below netlink's 64 KiB for one attribute.
const batchElements = 256

// firewallBuffer holds the transaction for a full pool.
const firewallBuffer = 64 << 20

// firewall is our table. Its sets say what each slot may do:
//
//	sources4, sources6  {device . address}  what it may send from
//	orgs                {device : org}      whose it is
//	members             {device . org}      the same, to compare two devices by one lookup
//	ports               {port}              TCP ports of the host that are open to machines
type firewall struct {
	table                                    *nftables.Table
	sources4, sources6, orgs, members, ports *nftables.Set
}

func (n *Network) firewall() firewall {
	t := &nftables.Table{Family: nftables.TableFamilyINet, Name: n.cfg.Prefix}
	set := func(id uint32, name string, types ...nftables.SetDatatype) *nftables.Set {
		return &nftables.Set{Table: t, ID: id, Name: name, KeyType: nftables.MustConcatSetType(types...)}
	}
	f := firewall{
		table:    t,
		sources4: set(1, "sources4", nftables.TypeIFName, nftables.TypeIPAddr),
		sources6: set(2, "sources6", nftables.TypeIFName, nftables.TypeIP6Addr),
		members:  set(3, "members", nftables.TypeIFName, nftables.TypeMark),
		orgs:     set(4, "orgs"),
		ports:    set(5, "ports"),
	}
	f.orgs.KeyType, f.orgs.DataType, f.orgs.IsMap = nftables.TypeIFName, nftables.TypeMark, true
	f.ports.KeyType = nftables.TypeInetService
	return f
}

func (f firewall) sets() []*nftables.Set {
	return []*nftables.Set{f.sources4, f.sources6, f.members, f.orgs, f.ports}
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
		return fmt.Errorf("cannot load firewall: %w: the kernel needs nf_tables with inet, nat, conntrack and reject", err)
	}
	return nil
}

func (n *Network) addSets(c *nftables.Conn, f firewall) error {
	for _, s := range f.sets() {
		if err := c.AddSet(s, nil); err != nil {
			return err
		}
	}
	all := map[*nftables.Set][]nftables.SetElement{}
	for _, s := range n.slots {
		if s.Assigned() {
			f.collect(all, s, n.orgs[s.Identity.Org].id)
		}
	}
	for _, p := range n.cfg.HostPorts {
		all[f.ports] = append(all[f.ports], nftables.SetElement{Key: binaryutil.BigEndian.PutUint16(p)})
	}
	for set, elems := range all {
		for len(elems) > 0 {
			k := min(len(elems), batchElements)
			if err := c.SetAddElements(set, elems[:k]); err != nil {
				return err
			}
			elems = elems[k:]
		}
	}
	return nil
}

// collect adds what a slot of the org may do.
func (f firewall) collect(into map[*nftables.Set][]nftables.SetElement, s *Slot, org uint32) {
	dev, mark := ifname(s.HostDevice), binaryutil.NativeEndian.PutUint32(org)
	put := func(set *nftables.Set, key, val []byte) {
		into[set] = append(into[set], nftables.SetElement{Key: append(ifname(s.HostDevice), key...), Val: val})
	}
	put(f.sources4, s.IPv4.AsSlice(), nil)
	if s.IPv6.IsValid() {
		put(f.sources6, s.IPv6.AsSlice(), nil)
	}
	put(f.members, mark, nil)
	into[f.orgs] = append(into[f.orgs], nftables.SetElement{Key: dev, Val: mark})
}

// changeFirewall takes away what the old owner of a slot might do and gives the
// next its rights, in one transaction. Either may be nobody.
func (n *Network) changeFirewall(old, next *Slot, org uint32) error {
	f := n.firewall()
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("cannot open nftables: %w", err)
	}
	gone, come := map[*nftables.Set][]nftables.SetElement{}, map[*nftables.Set][]nftables.SetElement{}
	if old.Assigned() {
		f.collect(gone, old, n.orgs[old.Identity.Org].id)
	}
	if next.Assigned() {
		f.collect(come, next, org)
	}
	for set, elems := range gone {
		if err := c.SetDeleteElements(set, elems); err != nil {
			return fmt.Errorf("cannot build firewall change: %w", err)
		}
	}
	for set, elems := range come {
		if err := c.SetAddElements(set, elems); err != nil {
			return fmt.Errorf("cannot build firewall change: %w", err)
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("cannot change firewall of %q: %w: if table %q was removed by hand, restart the node", next.HostDevice, err, f.table.Name)
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
