package api

import "time"

// The states of a [Volume].
const (
	VolumeCreating       = "creating"
	VolumeCreated        = "created"
	VolumePendingDestroy = "pending_destroy" // can be had back until DestroyAt
	VolumeDestroying     = "destroying"
	VolumeDestroyed      = "destroyed"
)

// Volume is storage that stays on one node and belongs to one machine at a time.
type Volume struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	State  string `json:"state" enum:"creating,created,pending_destroy,destroying,destroyed"`
	SizeGB int    `json:"size_gb" doc:"GiB; the machine cannot write more"`
	Region string `json:"region"`
	Zone   string `json:"zone" doc:"The node that has it"`
	Type   string `json:"type" doc:"local: on the disk of its node"`

	Encrypted bool   `json:"encrypted"`
	Fstype    string `json:"fstype"`

	AttachedMachineID *string `json:"attached_machine_id"`
	AttachedAllocID   *string `json:"attached_alloc_id"`

	CreatedAt         time.Time `json:"created_at"`
	SnapshotRetention int       `json:"snapshot_retention" doc:"Days that snapshots are kept"`
	AutoBackupEnabled bool      `json:"auto_backup_enabled" doc:"A snapshot is taken each day"`
	HostStatus        string    `json:"host_status" enum:"ok,unreachable" doc:"Whether the volume's node answers"`

	BlockSize   int64 `json:"block_size"`
	Blocks      int64 `json:"blocks"`
	BlocksFree  int64 `json:"blocks_free"`
	BlocksAvail int64 `json:"blocks_avail"`
	BytesUsed   int64 `json:"bytes_used" doc:"As when it was last mounted"`
	BytesTotal  int64 `json:"bytes_total"`

	App          string     `json:"app,omitempty" doc:"App that it belongs to (Perigee)"`
	Node         string     `json:"node,omitempty" doc:"Node that has it (Perigee)"`
	DestroyAt    *time.Time `json:"destroy_at,omitempty" doc:"With pending_destroy: when it is gone for good (Perigee)"`
	NeedsRestart bool       `json:"needs_restart,omitempty" doc:"It grows when its machine is started next (Perigee)"`
	Problem      string     `json:"problem,omitempty" doc:"What keeps its snapshots, its growth or its mount from happening, with semicolons between (Perigee)"`
}

// CreateVolumeRequest makes a volume (POST /v1/apps/{app}/volumes): an empty one, or
// one from a snapshot, or a copy of another.
type CreateVolumeRequest struct {
	Name   string `json:"name,omitempty" doc:"1 to 30 lower-case letters, digits and underscores; default data"`
	Region string `json:"region,omitempty"`
	SizeGB *int   `json:"size_gb,omitempty" doc:"1 to 16384; default 1, or that of what it is made from"`

	SnapshotID        string `json:"snapshot_id,omitempty" doc:"Restore this snapshot, of a volume of the same app"`
	SourceVolumeID    string `json:"source_volume_id,omitempty" doc:"Copy this volume of the app: on its node, or with a region in that, by a snapshot"`
	SnapshotRetention *int   `json:"snapshot_retention,omitempty" doc:"Days, 1 to 60; default 5"`
	AutoBackupEnabled *bool  `json:"auto_backup_enabled,omitempty" doc:"Default true"`

	Encrypted         *bool  `json:"encrypted,omitempty" doc:"Only true: every volume is encrypted"`
	Fstype            string `json:"fstype,omitempty" doc:"Only ext4"`
	RequireUniqueZone *bool  `json:"require_unique_zone,omitempty" doc:"On a node that has no volume of the app with this name"`
	UniqueZoneAppWide *bool  `json:"unique_zone_app_wide,omitempty" doc:"On a node that has no volume of the app at all"`
	MachinesOnly      *bool  `json:"machines_only,omitempty" doc:"Taken for Fly's clients and not looked at"`
	Compute           *Guest `json:"compute,omitempty" doc:"The machine to come: its node has room for it"`
	ComputeImage      string `json:"compute_image,omitempty" doc:"Taken for Fly's clients and not looked at"`

	// IdempotencyKey travels in [IdempotencyHeader]: a creation that is sent again under
	// the same key makes nothing new.
	IdempotencyKey string `json:"-"`
}

// UpdateVolumeRequest changes a volume's settings (PUT …/volumes/{id}).
type UpdateVolumeRequest struct {
	SnapshotRetention *int  `json:"snapshot_retention,omitempty" doc:"Days, 1 to 60"`
	AutoBackupEnabled *bool `json:"auto_backup_enabled,omitempty"`
}

// ExtendVolumeRequest makes a volume larger (PUT …/volumes/{id}/extend).
type ExtendVolumeRequest struct {
	SizeGB int `json:"size_gb" doc:"The new size in GiB; a volume never shrinks"`
}

// ExtendVolumeResponse says whether the machine sees the new size already.
type ExtendVolumeResponse struct {
	Volume       Volume `json:"volume"`
	NeedsRestart bool   `json:"needs_restart"`
}

// The states of a [VolumeSnapshot].
const (
	SnapshotCreating = "creating"
	SnapshotCreated  = "created"
	SnapshotFailed   = "failed"
)

// VolumeSnapshot is a volume as it was at one moment.
type VolumeSnapshot struct {
	ID            string    `json:"id"`
	Status        string    `json:"status" enum:"creating,created,failed"`
	Size          int64     `json:"size" doc:"Bytes of the volume that hold something"`
	VolumeSize    int64     `json:"volume_size" doc:"Bytes"`
	Digest        string    `json:"digest"`
	CreatedAt     time.Time `json:"created_at"`
	RetentionDays *int      `json:"retention_days"`

	Volume    string `json:"volume,omitempty" doc:"Volume that it is of (Perigee)"`
	Scheduled bool   `json:"scheduled,omitempty" doc:"Taken by itself (Perigee)"`
	Reason    string `json:"reason,omitempty" doc:"With failed: why; with creating: why it could not be stored so far (Perigee)"`
}
