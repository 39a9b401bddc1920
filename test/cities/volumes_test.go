//go:build linux

package cities

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/lab"
	"github.com/perigee-run/perigee/test"
	"github.com/perigee-run/perigee/volume/disk"
)

// volumesCloud is three cities that keep the snapshots of their volumes in one bucket.
type volumesCloud struct {
	*cloud
	bucket *test.Bucket
	image  string
}

// startVolumes starts them, and an app named shop whose image is known in iad alone.
func startVolumes(t *testing.T) *volumesCloud {
	t.Helper()
	if err := disk.Check(); err != nil {
		t.Skipf("%v; scripts/deps.sh run installs it", err)
	}
	c := newCloud(t, cloudCities)
	host, err := c.lab.AddHost("store", "iad")
	if err != nil {
		t.Fatal(err)
	}
	start := func(program string, args ...string) {
		cmd := host.Command(t.Context(), program, args...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		go cmd.Wait() // the host does not end before it is waited for
	}
	v := &volumesCloud{cloud: c, bucket: test.StartBucket(t, netip.AddrPortFrom(host.Addr4, 7070).String(), start, func(network, addr string) (net.Conn, error) {
		return host.Dial(t.Context(), network, addr)
	})}
	for _, city := range cloudCities {
		c.add(city, lab.NodeConfig{Args: append([]string{"--dead-after", "5s"}, v.bucket.Flags...)})
	}
	c.eventually("all nodes are up and keep the state", 30*time.Second, func() bool {
		out, _, _ := c.perigee("iad", "", "nodes")
		return strings.Count(out, " up") == 3 && strings.Count(out, " yes ") == 3
	})
	v.importTiny()
	return v
}

func (c *volumesCloud) at(city string) *api.Client { return c.nodes[city].Client() }

func (c *volumesCloud) importTiny() {
	c.Helper()
	if _, err := c.at("iad").CreateApp(c.Context(), api.CreateAppRequest{AppName: "shop"}); err != nil {
		c.Fatal(err)
	}
	f, err := os.Open(test.Tiny(c.T))
	if err != nil {
		c.Fatal(err)
	}
	defer f.Close()
	for p, err := range c.at("iad").ImportImage(c.Context(), "shop", f) {
		if err != nil {
			c.Fatal(err)
		}
		if p.Kind == "done" {
			c.image = p.Image
		}
	}
}

// volume has the node of a city make a volume, which must be on another one's node.
func (c *volumesCloud) volume(city string, req api.CreateVolumeRequest, node string) api.Volume {
	c.Helper()
	v, err := c.at(city).CreateVolume(c.Context(), "shop", req)
	if err != nil {
		c.Fatalf("%s makes a volume for %s: %v", city, node, err)
	}
	if v.Node != node || v.State != api.VolumeCreated {
		c.Fatalf("%s makes a volume: %+v; want it on %s", city, v, node)
	}
	return v
}

// machine has the node of a city make a machine with a volume, which must come to be
// where that is.
func (c *volumesCloud) machine(city string, mount api.Mount, node string) api.Machine {
	c.Helper()
	mount.Path = "/data"
	m, err := c.at(city).CreateMachine(c.Context(), "shop", api.CreateMachineRequest{Config: c.asleep(mount)})
	if err != nil {
		c.Fatalf("%s makes a machine with %+v: %v", city, mount, err)
	}
	if m.Node != node {
		c.Errorf("a machine with a volume of %s is on %s", node, m.Node)
	}
	return m
}

// asleep is a machine that does nothing.
func (c *volumesCloud) asleep(mount api.Mount) *api.MachineConfig {
	return &api.MachineConfig{Image: c.image, Mounts: []api.Mount{mount}, Init: &api.Init{Exec: []string{"/bin/busybox", "sleep", "100000"}}, StopConfig: &api.StopConfig{Signal: "SIGKILL"}}
}

// says runs a line of shell in a machine, asked for in a city.
func (c *volumesCloud) says(city, machine, line, want string) {
	c.Helper()
	r, err := c.at(city).Exec(c.Context(), "shop", machine, api.ExecRequest{Command: []string{"/bin/busybox", "sh", "-c", line}})
	if err != nil {
		c.Fatalf("%s: %v", line, err)
	}
	if got := strings.TrimSpace(r.Stdout + r.Stderr); got != want || r.ExitCode != 0 {
		c.Errorf("%s: %q, code %d; want %q", line, got, r.ExitCode, want)
	}
}

// snapshot has a city take a snapshot and waits until all of it is in the bucket.
func (c *volumesCloud) snapshot(city, id string) api.VolumeSnapshot {
	c.Helper()
	snap, err := c.at(city).CreateSnapshot(c.Context(), "shop", id)
	if err != nil {
		c.Fatal(err)
	}
	c.eventually("the snapshot is stored", 30*time.Second, func() bool {
		all, err := c.at(city).ListSnapshots(c.Context(), "shop", id)
		i := slices.IndexFunc(all, func(o api.VolumeSnapshot) bool { return o.ID == snap.ID && o.Status == api.SnapshotCreated })
		return err == nil && i >= 0
	})
	return snap
}

// TestVolumesOfCities: any node is asked for the volumes of all. A machine is made
// where its volume is; a snapshot is restored on whatever node, also when that of the
// volume is lost, and after it was removed.
func TestVolumesOfCities(t *testing.T) {
	t.Parallel()
	c := startVolumes(t)
	v := c.asked()
	c.raced()
	snap := c.restored(v)
	c.lost(v, snap)
}

// asked: a volume of fra is asked for in iad and syd.
func (c *volumesCloud) asked() api.Volume {
	c.Helper()
	ctx := c.Context()
	v := c.volume("iad", api.CreateVolumeRequest{Name: "data", Region: "fra"}, "fra-1")
	for _, city := range cloudCities {
		c.eventually(city+" lists it", 10*time.Second, func() bool {
			all, err := c.at(city).ListVolumes(ctx, "shop")
			return err == nil && len(all) == 1 && all[0].ID == v.ID && all[0].HostStatus == "ok"
		})
	}
	if got, err := c.at("syd").GetVolume(ctx, "shop", v.ID); err != nil || got.Node != "fra-1" || got.Region != "fra" {
		c.Errorf("syd shows %+v, %v", got, err)
	}
	days := 9
	if got, err := c.at("syd").UpdateVolume(ctx, "shop", v.ID, api.UpdateVolumeRequest{SnapshotRetention: &days}); err != nil || got.SnapshotRetention != 9 {
		c.Errorf("syd updates it: %+v, %v", got, err)
	}
	if got, err := c.at("syd").ExtendVolume(ctx, "shop", v.ID, 2); err != nil || got.Volume.SizeGB != 2 || got.NeedsRestart {
		c.Errorf("syd extends it: %+v, %v", got, err)
	}
	m := c.machine("syd", api.Mount{Name: "data"}, "fra-1")
	c.says("iad", m.ID, "echo one > /data/f; sync; cat /data/f", "one")
	if _, err := c.at("iad").DestroyVolume(ctx, "shop", v.ID, false); !api.IsCode(err, api.CodePrecondition) {
		c.Errorf("iad destroys one that is used: %v", err)
	}
	other := c.volume("syd", api.CreateVolumeRequest{Name: "other", Region: "fra"}, "fra-1")
	if got, err := c.at("iad").DestroyVolume(ctx, "shop", other.ID, false); err != nil || got.State != api.VolumePendingDestroy {
		c.Errorf("iad destroys one: %+v, %v", got, err)
	}
	if got, err := c.at("syd").KeepVolume(ctx, "shop", other.ID); err != nil || got.State != api.VolumeCreated {
		c.Errorf("syd keeps it: %+v, %v", got, err)
	}
	if _, err := c.at("iad").DestroyVolume(ctx, "shop", other.ID, true); err != nil {
		c.Errorf("iad destroys one at once: %v", err)
	}
	return v
}

// raced: three machines are made at once for three volumes of a name, on two nodes.
func (c *volumesCloud) raced() {
	c.Helper()
	for city, n := range map[string]int{"iad": 1, "syd": 2} {
		for range n {
			c.volume("fra", api.CreateVolumeRequest{Name: "race", Region: city}, city+"-1")
		}
	}
	on, all := make([]string, 3), sync.WaitGroup{}
	for i := range on {
		all.Go(func() {
			m, err := c.at(cloudCities[i]).CreateMachine(c.Context(), "shop", api.CreateMachineRequest{Config: c.asleep(api.Mount{Name: "race", Path: "/data"})})
			if on[i] = m.Node; err != nil {
				c.Errorf("one of three machines for three volumes, made by %s: %v", cloudCities[i], err)
			}
		})
	}
	all.Wait()
	if slices.Sort(on); !slices.Equal(on, []string{"iad-1", "syd-1", "syd-1"}) {
		c.Errorf("they are on %v", on)
	}
}

// restored: a snapshot of fra's volume is restored in syd, and its fork is made in iad.
func (c *volumesCloud) restored(v api.Volume) api.VolumeSnapshot {
	c.Helper()
	snap := c.snapshot("iad", v.ID)
	if n := c.bucket.Manifests(snap.ID + "." + v.ID); n != 1 {
		c.Errorf("the bucket has %d manifests of it", n)
	}
	there := c.volume("iad", api.CreateVolumeRequest{SnapshotID: snap.ID, Region: "syd", Name: "restored"}, "syd-1")
	c.says("fra", c.machine("fra", api.Mount{Volume: there.ID}, "syd-1").ID, "cat /data/f", "one")
	beside := c.volume("iad", api.CreateVolumeRequest{SourceVolumeID: v.ID, Name: "beside"}, "fra-1")
	c.says("iad", c.machine("iad", api.Mount{Volume: beside.ID}, "fra-1").ID, "cat /data/f", "one")
	fork := c.volume("syd", api.CreateVolumeRequest{SourceVolumeID: v.ID, Region: "iad", Name: "fork"}, "iad-1")
	c.says("syd", c.machine("syd", api.Mount{Volume: fork.ID}, "iad-1").ID, "cat /data/f", "one")
	return snap
}

// lost: fra is lost. What it had is listed, and its last snapshot is restored in
// another city, also once fra is removed.
func (c *volumesCloud) lost(v api.Volume, snap api.VolumeSnapshot) {
	c.Helper()
	ctx := c.Context()
	if err := c.nodes["fra"].Kill(); err != nil {
		c.Fatal(err)
	}
	c.eventually("iad finds fra lost", 30*time.Second, func() bool {
		got, err := c.at("iad").GetVolume(ctx, "shop", v.ID)
		return err == nil && got.HostStatus == "unreachable"
	})
	if _, err := c.at("syd").ExtendVolume(ctx, "shop", v.ID, 3); !api.IsCode(err, api.CodeUnreachable) {
		c.Errorf("to extend a volume of a lost node: %v", err)
	}
	if _, errs, code := c.perigee("syd", "", "volumes", "fork", v.ID, "-a", "shop"); code == 0 || !strings.Contains(errs, "perigee volumes create --snapshot-id vs_") {
		c.Errorf("to fork a volume of a lost node: exit code %d\n%s", code, errs)
	}
	restore := func(name, city, node string) {
		c.Helper()
		all, err := c.at("syd").ListSnapshots(ctx, "shop", v.ID)
		if err != nil || !slices.ContainsFunc(all, func(o api.VolumeSnapshot) bool { return o.ID == snap.ID && o.Status == api.SnapshotCreated }) {
			c.Fatalf("the snapshots of a lost volume: %+v, %v", all, err)
		}
		made := c.volume("syd", api.CreateVolumeRequest{SnapshotID: snap.ID, Name: name, Region: city}, node)
		c.says("syd", c.machine("syd", api.Mount{Name: name}, node).ID, "cat /data/f", "one")
		if made.SizeGB != 2 {
			c.Errorf("restored: %+v", made)
		}
	}
	restore("rescued", "iad", "iad-1")
	c.must("iad", "", "node", "remove", "fra-1", "--force")
	c.eventually("fra's volumes are gone, and their snapshots are others' to keep", 30*time.Second, func() bool {
		all, err := c.at("syd").ListVolumes(ctx, "shop", api.VolumeDestroyed)
		return err == nil && len(all) >= 1 && slices.ContainsFunc(all, func(o api.Volume) bool { return o.ID == v.ID && o.Node != "fra-1" })
	})
	restore("again", "syd", "syd-1")
}
