package volume

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/volume/disk"
)

// Resolve finds the volumes that a machine of the app mounts, those that are named
// only by their name too, and refuses what it cannot have. machine is "" for one
// that is still to be made.
func (s *Store) Resolve(app, machine string, mounts []api.Mount) ([]api.Mount, error) {
	out := slices.Clone(mounts)
	taken := map[string]bool{}
	for i := range out {
		m := &out[i]
		field := fmt.Sprintf("config.mounts[%d].volume", i)
		if m.Volume == "" {
			if m.Volume = s.free(app, machine, m.Name, taken); m.Volume == "" {
				return nil, api.Errorf(api.CodePrecondition, "app %q has no free volume named %q on node %q", app, m.Name, s.cfg.Node).
					WithField(fmt.Sprintf("config.mounts[%d].name", i)).WithHint("make one with perigee volumes create")
			}
		}
		v, err := s.there(app, m.Volume)
		if err != nil {
			return nil, api.AsError(err).WithField(field)
		}
		r := v.now()
		if err := r.usable(machine); err != nil {
			return nil, err.WithField(field)
		}
		if taken[m.Volume] {
			return nil, invalid(field, "volume %q is mounted twice", m.Volume)
		}
		taken[m.Volume], m.Name, m.Encrypted, m.SizeGB = true, r.Name, true, r.SizeGB
	}
	return out, nil
}

// free finds a volume by its name: the machine's own, else the oldest that no
// machine has.
func (s *Store) free(app, machine, name string, taken map[string]bool) string {
	o, err := s.cfg.Apps.Owner(app)
	if err != nil {
		return ""
	}
	var fit []Record
	for _, v := range s.all() {
		r := v.now()
		if r.App == app && r.AppID == o.ID && r.Name == name && !taken[r.ID] && r.usable(machine) == nil {
			fit = append(fit, r)
		}
	}
	if len(fit) == 0 {
		return ""
	}
	return slices.MinFunc(fit, func(a, b Record) int {
		own := func(r Record) int {
			if r.Machine == "" {
				return 1
			}
			return 0
		}
		return cmp.Or(cmp.Compare(own(a), own(b)), a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
	}).ID
}

// usable says why a machine cannot have the volume.
func (r *Record) usable(machine string) *api.Error {
	switch {
	case r.State != api.VolumeCreated:
		return api.Errorf(api.CodePrecondition, "volume %q cannot be mounted: it is %s", r.ID, r.State)
	case r.Machine != "" && r.Machine != machine:
		return api.Errorf(api.CodeConflict, "volume %q is already attached to machine %s", r.ID, r.Machine).
			WithHint("a volume belongs to one machine: make another one, or destroy that machine")
	}
	return nil
}

// Attach gives a machine the volumes of its mounts, all of them or none. It waits
// until Settle was called. Since Resolve another machine may have got one of them: then
// it is api.CodeConflict, with config.mounts as its field.
func (s *Store) Attach(ctx context.Context, app, machine string, mounts []api.Mount) error {
	select {
	case <-s.settled:
	case <-ctx.Done():
		return ctx.Err()
	}
	var got []*volume
	for _, m := range mounts {
		v, err := s.there(app, m.Volume)
		fresh := false
		if err == nil {
			fresh, err = s.attach(ctx, v, machine, m)
		}
		if fresh {
			got = append(got, v)
		}
		if err != nil {
			for _, v := range got {
				s.warn("cannot give a volume back", v, s.onTurn(ctx, v, func(ctx context.Context) error { return s.release(ctx, v) }))
			}
			return err
		}
	}
	return nil
}

// attach gives the machine one volume; fresh says that it had it not before.
func (s *Store) attach(ctx context.Context, v *volume, machine string, m api.Mount) (fresh bool, err error) {
	err = s.onTurn(ctx, v, func(ctx context.Context) error {
		r := v.now()
		if err := r.usable(machine); err != nil {
			return err.WithField("config.mounts")
		}
		v.setFreeing(false)
		x := extendOf(m)
		if fresh = r.Machine == ""; !fresh && same(r.Extend, x) {
			return nil
		}
		return s.save(ctx, v, func(r *Record) { r.Machine, r.Extend = machine, x })
	})
	return fresh && err == nil, err
}

func same(a, b *Extend) bool { return a == b || a != nil && b != nil && *a == *b }

func extendOf(m api.Mount) *Extend {
	if m.ExtendThresholdPercent <= 0 {
		return nil
	}
	return &Extend{m.ExtendThresholdPercent, max(1, m.AddSizeGB), m.SizeGBLimit}
}

// Detach takes from a machine all volumes but those of the mounts. What cannot be
// written down now is put right by the next start.
func (s *Store) Detach(ctx context.Context, machine string, but []api.Mount) {
	ctx, cancel := quiet(ctx)
	defer cancel()
	for _, v := range s.all() {
		if v.now().Machine != machine || machine == "" || slices.ContainsFunc(but, func(m api.Mount) bool { return m.Volume == v.id }) {
			continue
		}
		err := s.onTurn(ctx, v, func(ctx context.Context) error {
			if v.now().Machine != machine {
				return nil
			}
			return s.release(ctx, v)
		})
		s.warn("cannot free a volume; the next start of the daemon does", v, err)
	}
}

// release takes a volume from its machine. One that something still uses stays its
// machine's: another one would write beside it. The turn is held.
func (s *Store) release(ctx context.Context, v *volume) error {
	if err := s.unmount(ctx, v); err != nil {
		v.setFreeing(true)
		s.complain(ctx, v, unmountProblem+"it is not freed: "+err.Error())
		return err
	}
	v.setFreeing(false)
	if v.now().Machine == "" {
		return nil
	}
	return s.save(ctx, v, func(r *Record) { r.Machine, r.Extend = "", nil })
}

// Open mounts a volume for its machine and returns the folder on the host that the
// machine is to see. It may be repeated.
func (s *Store) Open(ctx context.Context, id, machine string) (dir string, err error) {
	v := s.lookup(id)
	if v == nil {
		return "", api.Errorf(api.CodePrecondition, "volume %q is not on node %q", id, s.cfg.Node)
	}
	if v.reopen(machine) {
		return v.disk.Data(), nil
	}
	if err := v.take(ctx); err != nil {
		return "", api.Errorf(api.CodeTimeout, "volume %q is busy: it is being copied, or grows", id).WithHint("start the machine again in a while")
	}
	return carry(ctx, s, v.give, func() bool { return true }, func(run context.Context) (string, error) {
		if r := v.now(); r.Machine != machine {
			return "", api.Errorf(api.CodePrecondition, "volume %q is not attached to machine %s", id, machine)
		}
		if err := s.mount(run, v); err != nil {
			return "", err
		}
		if ctx.Err() != nil { // nobody would close it
			return "", errors.Join(ctx.Err(), s.unmount(run, v))
		}
		return v.disk.Data(), nil
	})
}

// reopen lets a machine be started again while its volume is being copied, which may
// take long: it stays mounted all that time, and writers wait.
func (v *volume) reopen(machine string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.copying || v.rec.Machine != machine || !v.disk.Mounted() {
		return false
	}
	v.open = true
	return true
}

// mount makes the volume's folder be there, grown if that was waited for. The turn
// is held.
func (s *Store) mount(ctx context.Context, v *volume) error {
	if err := s.clear(ctx, v); err != nil {
		return err
	}
	r := v.now()
	key, err := s.sealer.open(r.ID, r.Key)
	if err != nil {
		return err
	}
	err = s.catchUp(ctx, v)
	if err != nil && !errors.Is(err, disk.ErrDamaged) { // it is as good as it was
		s.warn("cannot extend a volume", v, err)
		s.complain(ctx, v, growthProblem+"it cannot be extended: "+err.Error())
		err = nil
	}
	if err == nil {
		err = v.disk.Mount(ctx, key)
	}
	if err != nil {
		s.complain(ctx, v, mountProblem+err.Error())
		return fmt.Errorf("volume %q: %w", v.id, err)
	}
	v.setOpen(true)
	s.solve(ctx, v, mountProblem)
	return nil
}

// clear ends a mount of a life that is over: whatever holds it could write beside
// the next one. The turn is held.
func (s *Store) clear(ctx context.Context, v *volume) error {
	if !v.disk.Mounted() || v.isOpen() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.patience)
	defer cancel()
	if err := v.disk.Unmount(ctx); err != nil {
		s.complain(ctx, v, unmountProblem+"something still uses it: "+err.Error())
		return fmt.Errorf("volume %q is still used by what ran on it before: %w", v.id, err)
	}
	return nil
}

func (v *volume) isOpen() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.open
}

func (v *volume) setOpen(open bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.open = open
}

// Close ends what Open began, once all that was written is on disk.
func (s *Store) Close(ctx context.Context, id string) {
	v := s.lookup(id)
	if v == nil {
		return
	}
	v.setOpen(false) // also if its turn does not come: leave does it then
	err := s.onTurn(ctx, v, func(ctx context.Context) error {
		if v.isOpen() {
			return nil // for a machine that was started anew while it was copied
		}
		return s.unmount(ctx, v)
	})
	s.warn("a volume stays mounted", v, err)
}

// leave unmounts and frees a volume that could not be when its machine ended.
func (s *Store) leave(ctx context.Context, v *volume) {
	if v.isOpen() || !v.disk.Mounted() && !v.isFreeing() {
		return
	}
	err := s.onTurn(ctx, v, func(ctx context.Context) error {
		switch {
		case v.isOpen():
			return nil
		case v.isFreeing():
			return s.release(ctx, v)
		}
		return s.unmount(ctx, v)
	})
	s.warn("a volume stays mounted", v, err)
}

func (v *volume) isFreeing() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.freeing
}

func (v *volume) setFreeing(freeing bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.freeing = freeing
}

// unmount is Close with the turn held. From here on the volume is no machine's to use,
// also if it stays mounted.
func (s *Store) unmount(ctx context.Context, v *volume) error {
	v.setOpen(false)
	if u, ok := v.disk.Usage(); ok && u != v.now().Usage {
		if err := s.save(ctx, v, func(r *Record) { r.Usage = u }); err != nil {
			s.warn("cannot note how full a volume is", v, err)
		}
	}
	within, cancel := context.WithTimeout(ctx, s.cfg.patience)
	defer cancel()
	if err := v.disk.Unmount(within); err != nil {
		return err
	}
	s.solve(ctx, v, unmountProblem)
	return nil
}

// Settle puts right what a crash left between the records of machines and of
// volumes, and unmounts what no machine uses. It is called once, when the node
// knows its machines again; until then no machine gets a volume.
func (s *Store) Settle(ctx context.Context) {
	defer close(s.settled)
	for _, v := range s.all() {
		s.warn("cannot find out whose a volume is", v, s.onTurn(ctx, v, func(ctx context.Context) error { return s.settle(ctx, v) }))
	}
}

func (s *Store) settle(ctx context.Context, v *volume) error {
	machine, mount, runs := s.cfg.Holder(v.id)
	v.mu.Lock()
	used := v.open || runs
	v.open = used
	v.mu.Unlock()
	if r := v.now(); r.Machine != machine {
		s.log.Info("a volume's machine is put right", "volume", v.id, "machine", machine, "was", r.Machine)
		if err := s.save(ctx, v, func(r *Record) { r.Machine, r.Extend = machine, extendOf(mount) }); err != nil {
			return err
		}
	}
	if used {
		return nil
	}
	return s.unmount(ctx, v)
}
