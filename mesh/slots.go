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

// ErrPrefixTaken means that another node's network has the prefix.
var ErrPrefixTaken = errors.New("the network prefix is taken")

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
		if n.stale[id] {
			if err := n.forgetFlows(); err != nil {
				return nil, err
			}
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
	if n.cfg.OrgNumber(id.Org) == 0 {
		return fmt.Errorf("cannot assign network slot %d: org %q has no number: create the org first", s.ID, id.Org)
	}
	return n.give(s, id)
}

// Isolate gives a slot to what is of no org: it reaches the internet and the
// resolver as a machine does, but no machine, not even another such slot. The
// name tells it apart; for the rest see Assign.
func (n *Network) Isolate(ctx context.Context, s *Slot, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if name == "" {
		return fmt.Errorf("cannot isolate network slot %d: want a name", s.ID)
	}
	return n.give(s, Identity{Machine: name})
}

func (n *Network) give(s *Slot, id Identity) error {
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

// assign does the kernel's part without the lock, between a claim and its outcome.
func (n *Network) assign(id int, next *Slot) error {
	old, group, err := n.claim(id, next)
	if err != nil {
		return err
	}
	if err := n.configure(old, next, group); err != nil {
		return errors.Join(err, n.settle(next, old))
	}
	return n.settle(old, next)
}

// claim holds the next owner's address and org for the slot.
func (n *Network) claim(id int, next *Slot) (*Slot, uint32, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	old := n.slots[id]
	if old == nil {
		return nil, 0, errors.New("it was released")
	}
	if other, taken := n.addrs[next.IPv6]; taken && other.slot != id {
		return nil, 0, fmt.Errorf("its address %s is that of machine %q: create it under another id", next.IPv6, other.Machine)
	}
	group, err := n.join(next.Identity.Org)
	if err != nil {
		return nil, 0, err
	}
	n.remember(next)
	return old, group, nil
}

// settle ends a claim: out leaves the slot, in has it. The firewall forgets an
// org without slots outside the lock, since the kernel is slow at it.
func (n *Network) settle(out, in *Slot) error {
	n.mu.Lock()
	own := *in
	n.slots[in.ID] = &own
	gone := n.forget(out)
	if in.Assigned() {
		n.remember(&own)
	}
	n.mu.Unlock()
	if gone.group == 0 {
		return nil
	}
	return n.expelOrg(gone)
}

func (n *Network) remember(s *Slot) {
	n.addrs[s.IPv4] = owner{s.Identity, s.ID}
	if s.IPv6.IsValid() {
		n.addrs[s.IPv6] = owner{s.Identity, s.ID}
	}
}

// forget returns an org that has no slot any more, or one without a group.
func (n *Network) forget(s *Slot) org {
	if !s.Assigned() {
		return org{}
	}
	delete(n.addrs, s.IPv4)
	delete(n.addrs, s.IPv6)
	return n.leave(s.Identity.Org)
}

// join counts a slot of the org, and returns the group of its devices.
func (n *Network) join(name string) (uint32, error) {
	o := n.orgs[name]
	if o == nil {
		o = &org{group: n.group + 1, number: n.orgNumber(name)}
		if name != "" {
			if err := n.admitOrg(*o); err != nil {
				return 0, err
			}
		}
		n.group, n.orgs[name] = o.group, o
	}
	o.slots++
	return o.group, nil
}

func (n *Network) leave(name string) org {
	o := n.orgs[name]
	if o.slots--; o.slots > 0 {
		return org{}
	}
	delete(n.orgs, name)
	return *o
}

// Release ends a slot: first what it may do, then its namespace and device.
// Releasing twice is no error. A sandbox that still runs in the slot loses its
// network.
func (n *Network) Release(ctx context.Context, s *Slot) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := n.dismantle(s); err != nil {
		return fmt.Errorf("cannot release network slot %d: %w", s.ID, err)
	}
	return nil
}

// dismantle keeps the id taken if it fails, for Sweep or Setup to try again.
func (n *Network) dismantle(s *Slot) error {
	if err := errors.Join(n.deleteDevice(s.HostDevice), removeNamespace(s.NetnsPath)); err != nil {
		return err
	}
	n.mu.Lock()
	known := n.slots[s.ID]
	if known == nil {
		n.mu.Unlock()
		return nil
	}
	gone := n.forget(known)
	delete(n.slots, s.ID)
	n.stale[s.ID] = true
	n.mu.Unlock()
	if gone.group == 0 {
		return nil
	}
	return n.expelOrg(gone)
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
