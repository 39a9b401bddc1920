package deploy

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/app"
	"github.com/perigee-run/perigee/image"
)

const (
	maxCount       = 1000
	maxWaitTimeout = time.Hour
	defaultShare   = 0.33
	commandTimeout = 5 * time.Minute
)

// The keys of the metadata that a deploy gives its machines.
const (
	metaGroup    = "fly_process_group"
	metaPlatform = "fly_platform_version"
	metaRelease  = "fly_release_version"
	metaCommand  = "perigee_release_command"
)

// Deploy makes a release and carries it out. progress (which may be nil) is
// called by the caller's own goroutine; to be slow there does not slow the work. It returns
// when the release is complete or has failed and is undone; when ctx ends it
// returns early, and the work goes on. api.CodeConflict says that the app is
// being deployed already.
func (d *Deployer) Deploy(ctx context.Context, name string, req api.DeployRequest, progress func(api.Progress)) (api.Release, error) {
	if err := d.cfg.CatchUp(ctx); err != nil {
		return api.Release{}, err
	}
	return d.deploy(ctx, name, req, false, progress)
}

// Rollback makes a new release from the one of the version; 0 means the newest
// complete one before the present.
func (d *Deployer) Rollback(ctx context.Context, name string, to int, progress func(api.Progress)) (api.Release, error) {
	if err := d.cfg.CatchUp(ctx); err != nil {
		return api.Release{}, err
	}
	if to == 0 {
		present, _ := d.cfg.Apps.CompleteRelease(name, 0)
		former, ok := d.cfg.Apps.CompleteRelease(name, present.Version)
		if !ok || present.Version == 0 {
			if _, err := d.cfg.Apps.Get(name); err != nil {
				return api.Release{}, err
			}
			return api.Release{}, api.Errorf(api.CodePrecondition, "app %q has no complete release before the present one", name).
				WithHint("name a version")
		}
		to = former.Version
	}
	return d.deploy(ctx, name, api.DeployRequest{FromVersion: to, Description: "rollback to " + version(to)}, false, progress)
}

// Scale changes the number and the size of the app's machines in a new release.
// Machines that are as they should be already are left alone.
func (d *Deployer) Scale(ctx context.Context, name string, req api.ScaleRequest, progress func(api.Progress)) (api.Release, error) {
	if err := d.cfg.CatchUp(ctx); err != nil {
		return api.Release{}, err
	}
	if _, err := d.cfg.Apps.Get(name); err != nil {
		return api.Release{}, err
	}
	present, ok := d.cfg.Apps.CompleteRelease(name, 0)
	if !ok {
		return api.Release{}, api.Errorf(api.CodePrecondition, "app %q has no complete release that could be scaled", name).WithHint("deploy it first")
	}
	groups, err := resize(present.Groups, req)
	if err != nil {
		return api.Release{}, err
	}
	ask := api.DeployRequest{Groups: groups, Counts: req.Counts, Description: scaleWords(req)}
	if len(req.Regions) > 0 {
		if ask.Counts, ask.Spread, err = nil, nil, checkScale(groups, req); err != nil {
			return api.Release{}, err
		}
		ask.Spread = d.scaleSpread(present, groups, req)
	}
	return d.deploy(ctx, name, ask, true, progress)
}

// checkScale refuses a scale over regions that cannot be meant.
func checkScale(groups map[string]api.MachineConfig, req api.ScaleRequest) error {
	if len(req.Counts) == 0 {
		return invalid("regions", "regions are named, but no counts").WithHint("say how many machines are to be there")
	}
	for g, n := range req.Counts {
		if _, ok := groups[g]; !ok {
			return noGroup("counts."+g, g, groups)
		}
		if n < 0 || n > maxCount {
			return invalid("counts."+g, "process group %q cannot have %d machines; 0 to %d", g, n, maxCount)
		}
	}
	return checkPlaces(api.DeployRequest{Regions: req.Regions})
}

// scaleSpread spreads the counts over the regions named; the others keep theirs.
func (d *Deployer) scaleSpread(present app.Release, groups map[string]api.MachineConfig, req api.ScaleRequest) api.Spread {
	primary := d.cfg.Region
	if len(present.Regions) > 0 {
		primary = present.Regions[0]
	}
	was := d.present(present, groups, primary)
	out := api.Spread{}
	for g, n := range req.Counts {
		out[g] = map[string]int{}
		maps.Copy(out[g], was[g])
		maps.Copy(out[g], evenly(n, req.Regions))
	}
	return out
}

// resize returns groups with the size that req asks for.
func resize(groups map[string]api.MachineConfig, req api.ScaleRequest) (map[string]api.MachineConfig, error) {
	switch {
	case len(req.Counts) == 0 && req.CPUs == 0 && req.MemoryMB == 0 && req.CPUKind == "":
		return nil, invalid("counts", "nothing is to be scaled").WithHint("give counts, cpus or memory_mb")
	case req.CPUs < 0:
		return nil, invalid("cpus", "cpus is %d; it cannot be negative", req.CPUs)
	case req.MemoryMB < 0:
		return nil, invalid("memory_mb", "memory_mb is %d; it cannot be negative", req.MemoryMB)
	}
	if _, ok := groups[req.Group]; !ok && req.Group != "" {
		return nil, noGroup("group", req.Group, groups)
	}
	out := maps.Clone(groups)
	for name, c := range out {
		if req.Group != "" && name != req.Group {
			continue
		}
		g := api.Guest{}
		if c.Guest != nil {
			g = *c.Guest
		}
		g.CPUs, g.MemoryMB, g.CPUKind = or(req.CPUs, g.CPUs), or(req.MemoryMB, g.MemoryMB), or(req.CPUKind, g.CPUKind)
		if c.Guest != nil || req.CPUs != 0 || req.MemoryMB != 0 || req.CPUKind != "" {
			c.Guest = &g
		}
		out[name] = c
	}
	return out, nil
}

func or[T comparable](v, def T) T {
	orElse(&v, def)
	return v
}

func scaleWords(req api.ScaleRequest) string {
	s := "scale"
	for _, g := range groupsOf(req.Counts) {
		s += fmt.Sprintf(" %s=%d", g, req.Counts[g])
	}
	if len(req.Regions) > 0 {
		s += " in " + strings.Join(req.Regions, ", ")
	}
	if req.CPUs > 0 {
		s += fmt.Sprintf(" to %d CPUs", req.CPUs)
	}
	if req.MemoryMB > 0 {
		s += fmt.Sprintf(" to %d MiB", req.MemoryMB)
	}
	return s
}

func (d *Deployer) deploy(ctx context.Context, name string, req api.DeployRequest, keep bool, progress func(api.Progress)) (api.Release, error) {
	a, err := d.cfg.Apps.Get(name)
	if err != nil {
		return api.Release{}, err
	}
	if a.Deleting {
		return api.Release{}, api.Errorf(api.CodeConflict, "app %q is being destroyed", name)
	}
	if err := checkRequest(req); err != nil {
		return api.Release{}, err
	}
	return d.run(ctx, name, "being deployed", progress, func(ctx context.Context, w *work) (api.Release, error) {
		r, err := d.compose(ctx, w, req, keep)
		if err != nil {
			return api.Release{}, err
		}
		w.call(words(r))
		return d.carryOut(ctx, w, r)
	})
}

// checkRequest refuses what cannot be meant, before anything is done.
func checkRequest(req api.DeployRequest) error {
	switch req.Strategy {
	case "", Rolling, Canary, BlueGreen, Immediate:
	default:
		return invalid("strategy", "there is no strategy %q", req.Strategy).WithHint("rolling, immediate, canary or bluegreen")
	}
	if m := req.MaxUnavailable; m < 0 || math.IsNaN(m) || m > maxCount {
		return invalid("max_unavailable", "max_unavailable is %v; it is a number of machines, or a share below 1", m)
	}
	for field, t := range map[string]*api.Duration{"wait_timeout": req.WaitTimeout, "release_command_timeout": req.ReleaseCmdTimeout} {
		if t != nil && (*t < 0 || time.Duration(*t) > maxWaitTimeout) {
			return invalid(field, "%s is %s; it can be up to %s", field, *t, maxWaitTimeout)
		}
	}
	if req.FromVersion < 0 {
		return invalid("from_version", "from_version is %d; releases are numbered from 1", req.FromVersion)
	}
	for name, n := range req.Counts {
		if n < 0 || n > maxCount {
			return invalid("counts."+name, "process group %q cannot have %d machines; 0 to %d", name, n, maxCount)
		}
	}
	return checkPlaces(req)
}

// checkPlaces refuses spreads and regions that cannot be meant.
func checkPlaces(req api.DeployRequest) error {
	for name, regions := range req.Spread {
		for r, n := range regions {
			if field := "spread." + name + "." + r; n < 0 || n > maxCount {
				return invalid(field, "process group %q cannot have %d machines in %q; 0 to %d", name, n, r, maxCount)
			}
		}
	}
	for i, r := range req.Regions {
		if slices.Index(req.Regions, r) < i {
			return invalid("regions", "region %q is there twice", r)
		}
	}
	return nil
}

// compose makes the release's record: all that it needs is in it.
func (d *Deployer) compose(ctx context.Context, w *work, req api.DeployRequest, keep bool) (app.Release, error) {
	if left := d.unfinished(w.app); left != 0 {
		return app.Release{}, api.Errorf(api.CodeConflict, "release %s of app %q has not ended", version(left), w.app).WithHint("it is gone on with in a moment; try again then")
	}
	base, err := d.base(w.app, req)
	if err != nil {
		return app.Release{}, err
	}
	r := app.Release{Owner: d.cfg.Node, Release: api.Release{
		App: w.app, Status: api.ReleaseRunning, Description: req.Description, Image: req.Image,
		Groups: req.Groups, Strategy: or(req.Strategy, Rolling), Definition: req.Definition,
	}, Job: app.Job{
		MaxUnavailable: or(req.MaxUnavailable, defaultShare), WaitTimeout: req.WaitTimeout.Or(0), Keep: keep,
		Command: req.ReleaseCommand, CommandTimeout: req.ReleaseCmdTimeout.Or(commandTimeout),
	}}
	r.Image = or(r.Image, base.Image)
	if len(r.Groups) == 0 {
		r.Groups = base.Groups
	}
	if r.Definition == nil {
		r.Definition = base.Definition
	}
	if err := d.settle(ctx, w, &r, req); err != nil {
		return r, err
	}
	r, err = d.cfg.Apps.AddRelease(ctx, r)
	if err == nil {
		w.step("release %s: %s", version(r.Version), r.Image)
	}
	return r, err
}

// settle fills in what depends on the node: image, counts, hosts, machines.
func (d *Deployer) settle(ctx context.Context, w *work, r *app.Release, req api.DeployRequest) (err error) {
	if len(r.Groups) == 0 {
		return invalid("groups", "the release has no process group").WithHint("give groups with at least one machine configuration")
	}
	if r.Image == "" {
		return invalid("image", "no image is named, and app %q has no release to take one from", w.app)
	}
	present, _ := d.cfg.Apps.CompleteRelease(w.app, 0)
	if err := d.settleSpread(w, r, req, present); err != nil {
		return err
	}
	for name, c := range r.Groups {
		if err := d.validate(name, c, r.Image); err != nil {
			return err
		}
	}
	if err := d.cfg.CheckPorts(w.app, r.Groups); err != nil {
		return err
	}
	if r.Image, err = d.resolve(ctx, w, r.Image); err != nil {
		return err
	}
	if err := d.cfg.Apps.SetHosts(ctx, w.app, req.Hosts); err != nil {
		return err
	}
	r.Job.Before = map[string]app.Before{}
	for _, m := range d.managed(w.app) {
		r.Job.Before[m.ID] = app.Before{Version: m.InstanceID, Release: releaseOf(m), State: m.State, Cordoned: m.Cordoned}
	}
	return nil
}

// validate asks the machine room beforehand, where it can be asked, so that a
// configuration that it refuses makes no release.
func (d *Deployer) validate(group string, c api.MachineConfig, image string) error {
	v, ok := d.cfg.Machines.(Validator)
	if !ok {
		return nil
	}
	c.Image = image
	err := v.Validate(&c)
	if err == nil {
		return nil
	}
	e := *api.AsError(err)
	e.Message = fmt.Sprintf("process group %q: %s", group, e.Message)
	return e.WithField("groups." + group + "." + strings.TrimPrefix(e.Field, "config."))
}

func (d *Deployer) unfinished(name string) int {
	for _, r := range d.cfg.Apps.Releases(name) {
		if !r.Finished() {
			return r.Version
		}
	}
	return 0
}

// base is the release that gives what the request leaves out.
func (d *Deployer) base(name string, req api.DeployRequest) (app.Release, error) {
	if req.FromVersion > 0 {
		r, err := d.cfg.Apps.Release(name, req.FromVersion)
		if err != nil {
			return r, api.AsError(err).WithField("from_version")
		}
		return r, nil
	}
	r, _ := d.cfg.Apps.CompleteRelease(name, 0)
	return r, nil
}

func noGroup(field, name string, groups map[string]api.MachineConfig) error {
	return invalid(field, "there is no process group %q", name).
		WithHint(fmt.Sprintf("the app's groups are %v", slices.Sorted(maps.Keys(groups))))
}

// resolve brings the image to the node and returns its reference by digest.
func (d *Deployer) resolve(ctx context.Context, w *work, ref string) (string, error) {
	w.step("image %s", ref)
	img, err := d.cfg.Images.Pull(ctx, ref, func(p image.Progress) { w.tell(Layer(p)) })
	if err != nil {
		if e := api.AsError(err); e.Code != api.CodeInternal {
			return "", err
		}
		return "", api.Errorf(api.CodeImage, "cannot get image %q: %v", ref, err).WithField("image")
	}
	return Pinned(img), nil
}

// Pinned is the image's reference by digest.
func Pinned(img image.Image) string { return img.Registry + "/" + img.Repository + "@" + img.Digest }

// Layer is the progress of one layer in the API's words.
func Layer(p image.Progress) api.Progress {
	return api.Progress{Kind: "layer", ID: p.Layer, Message: string(p.Phase), Current: p.Done, Total: p.Total}
}

// managed returns the machines that releases made and manage; those that
// people made by hand are left alone.
func (d *Deployer) managed(name string) []api.Machine {
	all := d.cfg.Machines.List(name)
	return slices.DeleteFunc(all, func(m api.Machine) bool {
		return releaseOf(m) == 0 || m.Config == nil || m.Config.Metadata[metaCommand] != ""
	})
}

func releaseOf(m api.Machine) int {
	if m.Release > 0 || m.Config == nil {
		return m.Release
	}
	n, _ := strconv.Atoi(m.Config.Metadata[metaRelease])
	return max(0, n)
}

func groupOf(m api.Machine) string {
	if m.Config != nil && m.Config.Metadata[metaGroup] != "" {
		return m.Config.Metadata[metaGroup]
	}
	return "app"
}

func version(n int) string { return "v" + strconv.Itoa(n) }

func sprintf(format string, a ...any) string { return fmt.Sprintf(format, a...) }

func invalid(field, format string, a ...any) *api.Error {
	return api.Errorf(api.CodeInvalid, format, a...).WithField(field)
}
