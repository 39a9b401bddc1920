package node

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"slices"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/app"
	"github.com/perigee-run/perigee/app/keyfile"
	"github.com/perigee-run/perigee/catalog"
	"github.com/perigee-run/perigee/cluster"
	"github.com/perigee-run/perigee/fleet"
	"github.com/perigee-run/perigee/httpapi"
	"github.com/perigee-run/perigee/machine"
	"github.com/perigee-run/perigee/placement"
	"github.com/perigee-run/perigee/volume"
	"github.com/perigee-run/perigee/volume/objects"
	"github.com/perigee-run/perigee/volume/snapshot"
)

// Snapshots says where the volumes' snapshots are kept.
type Snapshots struct {
	// Dir is a folder of the node. Default: snapshots in the data directory.
	Dir string
	// S3 is a bucket, in place of the folder. Default: none.
	S3 objects.S3Config
	// Credentials is a file of mode 0600 with the keys for S3. Default: the
	// environment's AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
	Credentials string
}

// store opens the place; dir is the default's.
func (s Snapshots) store(dir string) (objects.Store, error) {
	if s.S3.Endpoint == "" && s.S3.Bucket == "" {
		return objects.NewDir(or(s.Dir, dir)), nil
	}
	if s.Dir != "" {
		return nil, errors.New("cannot keep snapshots in a folder and in a bucket: leave out --snapshot-dir or --snapshot-s3-bucket")
	}
	var err error
	if s.S3.AccessKey, s.S3.SecretKey, err = objects.Credentials(s.Credentials); err != nil {
		return nil, err
	}
	return objects.NewS3(s.S3)
}

// snapshotKey is what seals snapshots. All nodes of a cloud have the same: it comes of
// the key in secrets.key, which every one was given when it joined, and not of how the
// file holds it: each node may have wrapped it for itself. Nodes that had snapshots
// before that was so keep their file.
func (n *Node) snapshotKey() ([]byte, error) {
	key, err := os.ReadFile(n.path("snapshots.key"))
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	master, err := keyfile.Read(n.path("secrets.key"), n.cfg.SecretsIdentity)
	if err != nil {
		return nil, err
	}
	return hkdf.Key(sha256.New, []byte(hex.EncodeToString(master)), nil, "perigee snapshots", 32)
}

// openVolumes reads this node's volumes and what all say of theirs.
func (n *Node) openVolumes(ctx context.Context) error {
	place, err := n.cfg.Snapshots.store(n.path("snapshots"))
	if err != nil {
		return err
	}
	shared, err := n.snapshotKey()
	if err != nil {
		return err
	}
	repo, err := snapshot.New(place, shared)
	if err != nil {
		return err
	}
	folder := ""
	if dir, ok := place.(*objects.Dir); ok {
		folder = dir.Path()
		dir.Guard(func(dir string, bytes int64) error { return n.volumes.Spare(dir, bytes) })
	}
	own, err := secretFile(n.path("volumes.key"), 32, false)
	if err != nil {
		return err
	}
	records, err := catalog.NewLocal[volume.Record](n.catalog, "volumes")
	if err != nil {
		return err
	}
	if n.saidVolumes, err = catalog.NewPublished[volume.Summary](n.catalog, "volumes"); err != nil {
		return err
	}
	n.volumes, err = volume.New(ctx, volume.Config{
		Dir: n.path("volumes"), Node: n.cfg.Name, Region: n.cfg.Region, Key: own, Records: records, Apps: owners{n.apps}, Snapshots: repo, SnapshotDir: folder,
		Holder: n.mounting, Changed: n.sayVolume, Synced: n.synced, Logger: n.log,
		Listed: func(app, snapshot string) bool { return n.allVolumes.Lists(app, snapshot) },
	})
	return err
}

// Owner implements volume.Apps.
func (o owners) Owner(name string) (volume.Owner, error) {
	a, err := o.apps.Get(name)
	return volume.Owner{ID: a.ID, Org: a.Org, Deleting: a.Deleting}, err
}

// mounting is the machine of this node that has a volume, and its mount of it. The
// volumes come before the machines.
func (n *Node) mounting(id string) (machine string, mount api.Mount, runs bool) {
	if n.machines == nil {
		return "", mount, false
	}
	machine, runs = n.machines.Mounting(id)
	got, err := n.machines.Get(context.Background(), machine) // it only looks
	if err != nil || got.Config == nil {
		return machine, mount, runs
	}
	if i := slices.IndexFunc(got.Config.Mounts, func(m api.Mount) bool { return m.Volume == id }); i >= 0 {
		mount = got.Config.Mounts[i]
	}
	return machine, mount, runs
}

// layers keep what machines write. Without the tools for file systems they are folders,
// of any size.
func (n *Node) layers() machine.Layers {
	if err := n.volumes.Check(); err != nil {
		n.log.Warn("what machines keep of their file systems has no limit here", "err", err)
		return nil
	}
	return n.volumes.Layers()
}

// sayVolume tells all nodes what has become of a volume.
func (n *Node) sayVolume(id string) {
	if n.volumes == nil {
		return // all of them are said once the machines are known
	}
	if s, ok := n.volumes.Summary(id); ok {
		n.saidVolumes.Set(id, s)
	} else {
		n.saidVolumes.Unset(id)
	}
}

// keepVolumes puts the volumes right once the machines are known, and does what is
// due by itself from then on.
func (n *Node) keepVolumes(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- n.volumes.Run(ctx) }()
	select {
	case <-n.machines.Ready():
		n.volumes.Settle(ctx)
		n.saidVolumes.Replace(n.volumes.Summaries())
	case <-ctx.Done():
	}
	return <-done
}

// openFleetVolumes makes the volumes of all nodes look like one node's.
func (n *Node) openFleetVolumes() (err error) {
	n.allVolumes, err = n.fleet.NewVolumes(fleet.VolumesConfig{Local: n.volumes, Said: n.saidVolumes, Apps: owners{n.apps}, Place: n.placeVolume})
	return err
}

// placeVolume chooses the node of a new volume, where there is room for its machine
// too. It is not one of those in not; in a region with a single node for machines
// these are all that there is, and will do.
func (n *Node) placeVolume(ctx context.Context, name string, req api.CreateVolumeRequest, not []string) (string, error) {
	want := placement.Want{App: name, Near: n.cfg.Region}
	if req.Region != "" {
		want.Regions = []string{req.Region}
	}
	if req.Compute != nil {
		want.MemoryMB = req.Compute.MemoryMB
	}
	if len(not) > 0 && n.hostsIn(or(req.Region, n.cfg.Region)) > 1 {
		want.Not = not
	}
	node, err := n.choose(ctx, want)
	return node, volume.NoPlace(err)
}

// hostsIn is how many nodes of a region take machines.
func (n *Node) hostsIn(region string) (count int) {
	for _, o := range n.cluster.Nodes() {
		if o.Region == region && o.Has(cluster.RoleHost) {
			count++
		}
	}
	return count
}

// appVolumes are the volumes as deploys see them.
type appVolumes struct{ n *Node }

// Provide implements deploy.Volumes.
func (v appVolumes) Provide(ctx context.Context, name, region, node string, mounts []api.Mount) ([]api.Mount, []string, error) {
	return v.n.allVolumes.Provide(ctx, name, region, node, mounts)
}

// Provided implements deploy.Volumes.
func (v appVolumes) Provided(mounts []api.Mount) { v.n.allVolumes.Provided(mounts) }

// DestroyAll implements deploy.Volumes.
func (v appVolumes) DestroyAll(ctx context.Context, name string) error {
	return v.n.allVolumes.DestroyAll(ctx, name)
}

// inheritVolumes drops what a removed node said of its volumes, once one node, the one
// that decides on moves, has taken over the snapshots of them that are in a bucket.
func (n *Node) inheritVolumes(ctx context.Context, name string) error {
	left := slices.DeleteFunc(n.saidVolumes.List(), func(e catalog.PublishedEntry[volume.Summary]) bool { return e.Node != name })
	if len(left) == 0 || !n.healing.Held(ctx) {
		return nil
	}
	for _, e := range left {
		if err := n.volumes.Adopt(ctx, e.Value); err != nil {
			return err
		}
	}
	return n.saidVolumes.Forget(ctx, name)
}

var (
	_ httpapi.Volumes = (*fleet.Volumes)(nil)
	_ machine.Volumes = (*volume.Store)(nil)
	_ machine.Layers  = (*volume.Layers)(nil)
	_ volume.Apps     = owners{(*app.Store)(nil)}
)
