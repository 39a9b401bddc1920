package volume

import (
	"github.com/perigee-run/perigee/api"
)

// The limits of volumes.
const (
	maxSizeGB        = 16384
	maxRetention     = 60
	defaultRetention = 5
	maxSnapshots     = 64 // that are asked for; the record of a volume names all of them
)

// Check reports the first thing in a request for a volume that cannot be.
func Check(req api.CreateVolumeRequest) error {
	switch {
	case req.Name != "" && !nameForm.MatchString(req.Name):
		return invalid("name", "name is %q; it can be 1 to 30 lower-case letters, digits and underscores", req.Name)
	case req.Fstype != "" && req.Fstype != "ext4":
		return api.Errorf(api.CodeUnsupported, "fstype is %q; it can be ext4", req.Fstype).WithField("fstype")
	case req.Encrypted != nil && !*req.Encrypted:
		return api.Errorf(api.CodeUnsupported, "encrypted is false; every volume is encrypted").WithField("encrypted").WithHint("leave encrypted out")
	case req.SnapshotID != "" && !snapshotForm.MatchString(req.SnapshotID):
		return invalid("snapshot_id", "snapshot_id is %q; want an id such as vs_MgLAggLZkYx89fLy0", req.SnapshotID).WithHint("perigee volumes snapshots list shows those of a volume")
	case req.SnapshotID != "" && req.SourceVolumeID != "":
		return invalid("snapshot_id", "snapshot_id and source_volume_id cannot both be given")
	}
	if req.SizeGB != nil {
		if err := checkSize(*req.SizeGB); err != nil {
			return err
		}
	}
	return checkRetention(req.SnapshotRetention)
}

func checkSize(gb int) error {
	if gb < 1 || gb > maxSizeGB {
		return invalid("size_gb", "size_gb is %d; it can be 1 to %d", gb, maxSizeGB)
	}
	return nil
}

func checkRetention(days *int) error {
	if days != nil && (*days < 1 || *days > maxRetention) {
		return invalid("snapshot_retention", "snapshot_retention is %d; it can be 1 to %d days", *days, maxRetention)
	}
	return nil
}

func invalid(field, format string, a ...any) *api.Error {
	return api.Errorf(api.CodeInvalid, format, a...).WithField(field)
}
