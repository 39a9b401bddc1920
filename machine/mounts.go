package machine

import (
	"context"
	"os"
	"syscall"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/sandbox"
)

// Volumes is the node's volumes; *volume.Store is one.
type Volumes interface {
	// Resolve finds the volumes of the mounts, and refuses those that the machine
	// ("" for one that is still to be made) cannot have.
	Resolve(app, machine string, mounts []api.Mount) ([]api.Mount, error)
	// Attach gives the machine the volumes of its mounts, all or none. Those that it
	// has already are no error; one that another got meanwhile is api.CodeConflict
	// about config.mounts.
	Attach(ctx context.Context, app, machine string, mounts []api.Mount) error
	// Detach takes all volumes from the machine but those of the mounts.
	Detach(ctx context.Context, machine string, but []api.Mount)
	// Open returns the folder of the host that the machine sees, and Close ends that;
	// both may be repeated.
	Open(ctx context.Context, volume, machine string) (dir string, err error)
	Close(ctx context.Context, volume string)
}

// noVolumes is a node without any.
type noVolumes struct{}

var errNoVolumes = unsupported("config.mounts", "this node has no volumes").WithHint("leave mounts out; rootfs.persist keeps what a machine writes")

func (noVolumes) Resolve(_, _ string, mounts []api.Mount) ([]api.Mount, error) {
	if len(mounts) > 0 {
		return nil, errNoVolumes
	}
	return nil, nil
}
func (noVolumes) Attach(context.Context, string, string, []api.Mount) error { return nil }
func (noVolumes) Detach(context.Context, string, []api.Mount)               {}
func (noVolumes) Open(context.Context, string, string) (string, error)      { return "", errNoVolumes }
func (noVolumes) Close(context.Context, string)                             {}

// openVolumes makes the machine's volumes ready for a life, all or none; with none its
// layer is not open either.
func (h *Host) openVolumes(ctx context.Context, r *Record, p *plan) (out []sandbox.Mount, err error) {
	for _, m := range r.Config.Mounts {
		dir, err := h.cfg.Volumes.Open(ctx, m.Volume, r.ID)
		if err == nil {
			err = own(dir, int(p.uid), int(p.gid))
		}
		if err != nil {
			h.closeVolumes(r)
			return nil, internal(err, "cannot mount volume %q for machine %q", m.Volume, r.ID)
		}
		out = append(out, sandbox.Mount{Source: dir, Destination: m.Path})
	}
	return out, nil
}

// own gives an empty volume to the user that the machine runs as: else nobody but
// root could ever write there. One that was written to, or given to somebody, stays
// as it is.
func own(dir string, uid, gid int) error {
	fi, err := os.Stat(dir)
	if err != nil || uid == 0 {
		return err
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); !ok || st.Uid != 0 {
		return nil
	}
	if there, err := os.ReadDir(dir); err != nil || len(there) > 0 {
		return err
	}
	return os.Chown(dir, uid, gid)
}

// closeVolumes is for when the machine's sandbox is gone. It closes its layer too.
func (h *Host) closeVolumes(r *Record) {
	ctx, cancel := h.cleanup()
	defer cancel()
	h.closeLayer(r)
	for _, m := range r.Config.Mounts {
		h.cfg.Volumes.Close(ctx, m.Volume)
	}
}

// Mounting returns the machine of this node whose configuration mounts the volume,
// "" if none does, and whether it has a sandbox.
func (h *Host) Mounting(volume string) (id string, runs bool) {
	for _, m := range h.all() {
		v := m.now()
		if v.gone {
			continue
		}
		for _, mount := range v.rec.Config.Mounts {
			if mount.Volume == volume {
				return m.id, !resting(v.rec.State)
			}
		}
	}
	return "", false
}

// resting reports whether a machine in that state has no sandbox.
func resting(state string) bool {
	switch state {
	case api.StateCreated, api.StateStopped, api.StateSuspended, api.StateFailed, api.StateDestroyed:
		return true
	}
	return false
}

// stopInstead stops a machine with volumes whose memory cannot be saved.
func (h *Host) stopInstead(ctx context.Context, m *machine, source string, why error) error {
	h.log.Warn("a machine with a volume cannot be suspended: it is stopped", "machine", m.id, "error", why)
	hg := m.stopping(api.StopRequest{}, source)
	hg.standing = "stopped, not suspended: its memory could not be saved beside its volume: " + why.Error()
	m.say("machine is stopped instead of suspended: " + why.Error())
	return h.halt(ctx, m, hg)
}

// giveBack takes from the machine what an update that failed has attached.
func (h *Host) giveBack(m *machine, err error) error {
	if err != nil {
		ctx, cancel := h.cleanup()
		defer cancel()
		h.cfg.Volumes.Detach(ctx, m.id, m.now().rec.Config.Mounts)
	}
	return err
}
