package volume

import (
	"slices"
	"strings"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/volume/disk"
)

// Record is what the catalog keeps of one volume, under its id. Only the node that
// has the volume writes it.
type Record struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	App       string    `json:"app"`
	AppID     string    `json:"app_id"` // an app that has the name later is another one
	Org       string    `json:"org"`
	Node      string    `json:"node"`
	Region    string    `json:"region"`
	SizeGB    int       `json:"size_gb"`
	State     string    `json:"state"`
	CreatedAt time.Time `json:"created_at"`
	// CreateKey is the idempotency key of its creation, "" if that had none.
	CreateKey string `json:"create_key,omitempty"`
	// Key is the volume's, sealed with the node's.
	Key []byte `json:"key,omitempty"`

	// Machine may use it, no other; "" if none.
	Machine string `json:"machine,omitempty"`
	// Extend says when it grows by itself, as the machine's mount says.
	Extend *Extend `json:"extend,omitempty"`
	// Growing says that SizeGB is what it is to become when it is mounted next.
	Growing bool `json:"growing,omitempty"`
	// Shares says that it was made as a copy whose blocks are also another's.
	Shares bool `json:"shares,omitempty"`
	// DestroyAt is when one that is pending_destroy is gone for good.
	DestroyAt *time.Time `json:"destroy_at,omitempty"`

	// Retention is for how many days snapshots are kept, AutoBackup whether one is
	// taken each day, and BackedUp when that was tried last.
	Retention  int        `json:"retention"`
	AutoBackup bool       `json:"auto_backup"`
	BackedUp   time.Time  `json:"backed_up,omitzero"`
	Snapshots  []Snapshot `json:"snapshots,omitempty"` // newest first

	// Usage is how full it was when it was last looked.
	Usage disk.Usage `json:"usage,omitzero"`
	// Problem is what keeps something that is due from being done: a line for each kind.
	Problem string `json:"problem,omitempty"`
}

// Extend lets a volume grow by itself: by AddGB when Threshold percent are used, up
// to LimitGB (0: as far as the disk goes).
type Extend struct {
	Threshold int `json:"threshold"`
	AddGB     int `json:"add_gb"`
	LimitGB   int `json:"limit_gb,omitempty"`
}

// Snapshot is what is known of a volume's snapshot; its manifest is in the store.
type Snapshot struct {
	ID         string    `json:"id"`
	Status     string    `json:"status"`
	Size       int64     `json:"size,omitempty"`
	VolumeSize int64     `json:"volume_size"`
	Digest     string    `json:"digest,omitempty"`
	CreatedAt  time.Time `json:"created_at"`
	Retention  int       `json:"retention"` // days
	Scheduled  bool      `json:"scheduled,omitempty"`
	// Reason is why it failed, or could not be stored so far.
	Reason string `json:"reason,omitempty"`
}

func (r *Record) snapshot(id string) *Snapshot {
	i := slices.IndexFunc(r.Snapshots, func(s Snapshot) bool { return s.ID == id })
	if i < 0 {
		return nil
	}
	return &r.Snapshots[i]
}

// copy returns a record that shares nothing that is changed in place.
func (r Record) copy() Record {
	r.Snapshots = slices.Clone(r.Snapshots)
	return r
}

// shown is the volume in the API's words.
func (r *Record) shown() api.Volume {
	u := r.Usage
	v := api.Volume{
		ID: r.ID, Name: r.Name, State: r.State, SizeGB: r.SizeGB, Region: r.Region, Zone: r.Node, Type: "local",
		Encrypted: true, Fstype: "ext4", CreatedAt: r.CreatedAt, SnapshotRetention: r.Retention, AutoBackupEnabled: r.AutoBackup, HostStatus: "ok",
		BlockSize: u.BlockSize, Blocks: u.Blocks, BlocksFree: u.Free, BlocksAvail: u.Available,
		BytesUsed: (u.Blocks - u.Free) * u.BlockSize, BytesTotal: u.Blocks * u.BlockSize,
		App: r.App, Node: r.Node, DestroyAt: r.DestroyAt, NeedsRestart: r.Growing, Problem: strings.ReplaceAll(r.Problem, "\n", "; "),
	}
	if r.Machine != "" {
		v.AttachedMachineID = &r.Machine
		v.AttachedAllocID = &r.Machine
	}
	return v
}

func (s Snapshot) shown(volume string) api.VolumeSnapshot {
	days := s.Retention
	return api.VolumeSnapshot{ID: s.ID, Status: s.Status, Size: s.Size, VolumeSize: s.VolumeSize, Digest: s.Digest, CreatedAt: s.CreatedAt,
		RetentionDays: &days, Volume: volume, Scheduled: s.Scheduled, Reason: s.Reason}
}

// Summary is what a node tells all others of one of its volumes: enough to list it,
// to find its node, and to find its snapshots.
type Summary struct {
	Volume    api.Volume           `json:"volume"`
	AppID     string               `json:"app_id"`
	Org       string               `json:"org"`
	CreateKey string               `json:"create_key,omitempty"`
	Snapshots []api.VolumeSnapshot `json:"snapshots,omitempty"`
}

func (r *Record) summary() Summary {
	s := Summary{Volume: r.shown(), AppID: r.AppID, Org: r.Org, CreateKey: r.CreateKey}
	for _, one := range r.Snapshots {
		s.Snapshots = append(s.Snapshots, one.shown(r.ID))
	}
	return s
}
