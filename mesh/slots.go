package mesh

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
)

// ErrFull means that every address of the pool is in use.
var ErrFull = errors.New("every address of the IPv4 pool is in use")

// ErrNotSetUp means that Setup has not succeeded yet.
var ErrNotSetUp = errors.New("the network is not set up")

// Acquire makes a slot that belongs to nobody yet; it can send no packet until
// Assign. It takes a few milliseconds, mostly the kernel's: keep a pool of them.
// What cannot be finished is undone.
func (n *Network) Acquire(ctx context.Context) (*Slot, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s, err := n.reserve()
	if err != nil {
		return nil, fmt.Errorf("cannot make network slot: %w", err)
	}
	if err := n.build(s); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot make network slot %d: %w", s.ID, err), n.dismantle(s))
	}
	return s, nil
}

// reserve picks the id after the last one used, so that an address rests as
// long as possible before another org's machine gets it.
func (n *Network) reserve() (*Slot, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.ready {
		return nil, ErrNotSetUp
	}
	count := slotCount(n.pool)
	for i := range count {
		id := (n.next + i) % count
		if n.slots[id] != nil {
			continue
		}
		s := n.newSlot(id)
		n.next, n.slots[id] = id+1, s
		own := *s
		return &own, nil
	}
	return nil, fmt.Errorf("%w: %s has room for %d machines", ErrFull, n.pool, count)
}

func (n *Network) newSlot(id int) *Slot {
	s := &Slot{
		ID:         id,
		NetnsPath:  filepath.Join(n.netnsDir(), n.device(id)),
		HostDevice: n.device(id),
		IPv4:       at(n.pool, slotOffset+id),
		Gateway4:   at(n.pool, gatewayOffset),
		MTU:        n.mtu,
	}
	if n.ipv6 {
		s.Gateway6 = gateway6
	}
	return s
}

// Assign gives a slot to a machine: its private IPv6 address, its org in the
// firewall, and, since a sandbox takes addresses and routes away from its
// namespace, those once more. So call it before every start or restore in the
// slot, and never while a sandbox runs in it. A second call may change the owner.
func (n *Network) Assign(ctx context.Context, s *Slot, id Identity) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if id.Org == "" || id.Machine == "" {
		return fmt.Errorf("cannot assign network slot %d: want the names of an org and a machine", s.ID)
	}
	next := *s
	next.Identity = id
	if s.Gateway6.IsValid() {
		next.IPv6 = n.PrivateIPv6(id)
	}
	if err := n.assign(s.ID, &next); err != nil {
		return fmt.Errorf("cannot assign network slot %d to machine %q: %w", s.ID, id.Machine, err)
	}
	*s = next
	return nil
}

func (n *Network) assign(id int, next *Slot) error {
	if err := n.configureGuest(next); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	old := n.slots[id]
	if old == nil {
		return errors.New("it was released")
	}
	if owner, taken := n.addrs[next.IPv6]; taken && owner != id {
		return fmt.Errorf("its address %s is that of machine %q: create it under another id", next.IPv6, n.slots[owner].Identity.Machine)
	}
	if err := n.configureHost(old, next); err != nil {
		return err
	}
	return n.admit(old, next)
}

// admit moves the slot from its old owner to the next, here and in the firewall.
func (n *Network) admit(old, next *Slot) error {
	number := n.join(next.Identity.Org)
	if err := n.changeFirewall(old, next, number); err != nil {
		n.leave(next.Identity.Org)
		return err
	}
	n.forget(old)
	own := *next
	n.slots[next.ID] = &own
	n.remember(&own)
	return nil
}

func (n *Network) remember(s *Slot) {
	n.addrs[s.IPv4] = s.ID
	if s.IPv6.IsValid() {
		n.addrs[s.IPv6] = s.ID
	}
}

func (n *Network) forget(s *Slot) {
	if !s.Assigned() {
		return
	}
	delete(n.addrs, s.IPv4)
	delete(n.addrs, s.IPv6)
	n.leave(s.Identity.Org)
}

// join counts a slot of the org and returns the org's number in the firewall.
func (n *Network) join(name string) uint32 {
	o := n.orgs[name]
	if o == nil {
		n.orgID++
		o = &org{id: n.orgID}
		n.orgs[name] = o
	}
	o.refs++
	return o.id
}

func (n *Network) leave(name string) {
	o := n.orgs[name]
	if o.refs--; o.refs == 0 {
		delete(n.orgs, name)
	}
}

// Release ends a slot: first what it may do, then its tracked connections, then
// its device and namespace. Releasing twice is no error. A sandbox that still
// runs in the slot loses its network.
func (n *Network) Release(ctx context.Context, s *Slot) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := n.dismantle(s); err != nil {
		return fmt.Errorf("cannot release network slot %d: %w", s.ID, err)
	}
	return nil
}

func (n *Network) dismantle(s *Slot) error {
	owned, err := n.expel(s.ID)
	if owned {
		err = errors.Join(err, n.forgetFlows(s.IPv4, s.IPv6))
	}
	err = errors.Join(err, n.deleteDevice(s.HostDevice), removeNamespace(s.NetnsPath))
	if err != nil {
		return err // the id stays taken, and Sweep or Setup tries again
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.slots, s.ID)
	return nil
}

// expel takes the slot's rights away and reports whether it had any.
func (n *Network) expel(id int) (bool, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.slots[id]
	if s == nil || !s.Assigned() {
		return false, nil
	}
	bare := n.newSlot(id)
	if err := n.changeFirewall(s, bare, 0); err != nil {
		return true, err
	}
	n.forget(s)
	n.slots[id] = bare
	return true, nil
}

// Slots returns the slots there are, by id: those of this run, and those that
// Setup found from an earlier one.
func (n *Network) Slots() []Slot {
	n.mu.RLock()
	defer n.mu.RUnlock()
	all := make([]Slot, 0, len(n.slots))
	for _, s := range n.slots {
		all = append(all, *s)
	}
	slices.SortFunc(all, func(a, b Slot) int { return cmp.Compare(a.ID, b.ID) })
	return all
}

// Sweep releases every slot whose id is not in keep. Call it when no Acquire is
// under way: it would take that slot too.
func (n *Network) Sweep(ctx context.Context, keep map[int]bool) error {
	var errs []error
	for _, s := range n.Slots() {
		if keep[s.ID] {
			continue
		}
		if err := n.Release(ctx, &s); err != nil {
			errs = append(errs, err)
			continue
		}
		n.log.Info("network slot swept", "slot", s.ID, "machine", s.Identity.Machine)
	}
	return errors.Join(errs...)
}
