package deploy

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/app"
	"github.com/perigee-run/perigee/region"
)

// settleSpread says how many machines each group gets in each region: what is
// asked for, else what the app's present release has, else one in each region.
func (d *Deployer) settleSpread(w *work, r *app.Release, req api.DeployRequest, former app.Release) error {
	if err := d.checkSpread(r.Groups, req); err != nil {
		return err
	}
	if !r.Job.Keep { // a configuration, not somebody who scales
		req = d.collapse(w, req)
	}
	primary := d.primary(w, req, former)
	present := d.present(former, r.Groups, primary)
	r.Spread = api.Spread{}
	for _, g := range slices.Sorted(maps.Keys(r.Groups)) {
		r.Spread[g] = groupSpread(g, req, present, primary, former.Regions)
		if sum(r.Spread[g]) == 0 {
			w.warn("process group %q is scaled to nothing and has no machine; perigee scale count %s=1 gives it one", g, g)
		}
	}
	r.Counts = r.Spread.Total()
	r.Regions = allowed(primary, req.Regions, r.Spread)
	if len(req.Regions) == 0 && sum(r.Counts) == 0 && len(former.Regions) > 0 {
		r.Regions = former.Regions // where it comes back to
	}
	if err := d.checkRegions(r.Spread, req, former.Regions); err != nil {
		return err
	}
	return d.checkRoom(r, present)
}

// checkRoom refuses what there is no room for at all, before anything is begun.
func (d *Deployer) checkRoom(r *app.Release, present api.Spread) error {
	for _, g := range slices.Sorted(maps.Keys(r.Spread)) {
		for _, at := range slices.Sorted(maps.Keys(r.Spread[g])) {
			more := r.Spread[g][at] - present[g][at]
			if more <= 0 {
				continue
			}
			c := r.Groups[g]
			if err := d.cfg.Fits(r.App, g, d.cfg.StandIn(at, r.Regions), &c, more); err != nil {
				return wrap(err, "process group %q: there is no room for %d more machines in %q", g, more, at)
			}
		}
	}
	return nil
}

// collapse lets a configuration for many regions run in a cloud that has one: the
// largest number that a group has anywhere counts there.
func (d *Deployer) collapse(w *work, req api.DeployRequest) api.DeployRequest {
	there := d.regions()
	if len(there) != 1 {
		return req
	}
	only, missing := there[0], map[string]bool{}
	for _, r := range req.Regions {
		missing[r] = r != only
	}
	spread := api.Spread{}
	for g, regions := range req.Spread {
		most := 0
		for r, n := range regions {
			missing[r], most = r != only, max(most, n)
		}
		spread[g] = map[string]int{only: most}
	}
	maps.DeleteFunc(missing, func(_ string, is bool) bool { return !is })
	if len(missing) == 0 {
		return req
	}
	w.warn("accepted, but not acted on: there is no node in region %s; all machines go to %q, the only one", quoted(missing), only)
	req.Regions, req.Spread = []string{only}, spread
	return req
}

func quoted(set map[string]bool) string {
	var words []string
	for _, r := range slices.Sorted(maps.Keys(set)) {
		words = append(words, strconv.Quote(r))
	}
	return strings.Join(words, " and ")
}

// regions are those that have nodes.
func (d *Deployer) regions() []string {
	if d.cfg.Regions == nil {
		return []string{d.cfg.Region}
	}
	return slices.Sorted(slices.Values(d.cfg.Regions()))
}

// groupSpread is settleSpread for one group.
func groupSpread(g string, req api.DeployRequest, present api.Spread, primary string, before []string) map[string]int {
	if s, ok := req.Spread[g]; ok {
		return maps.Clone(s)
	}
	was, known := present[g]
	regions := req.Regions
	if len(regions) == 0 {
		regions = where(was, primary, before)
	}
	n, asked := req.Counts[g]
	switch {
	case asked && len(req.Regions) > 0:
		return evenly(n, regions)
	case asked && known:
		return resizeSpread(was, n, regions)
	case asked:
		return evenly(n, regions)
	case len(req.Regions) > 0:
		return within(was, known, regions)
	case known:
		return maps.Clone(was)
	}
	return evenly(len(regions), regions)
}

// where are the regions of a group, in order; if it has none, those where the app
// was before, else the primary one.
func where(was map[string]int, primary string, before []string) []string {
	out := slices.Sorted(maps.Keys(was))
	out = slices.DeleteFunc(out, func(r string) bool { return was[r] == 0 })
	switch {
	case len(out) > 0:
		return out
	case len(before) > 0:
		return before
	}
	return []string{primary}
}

// within keeps what a group has in the regions named, and gives it one machine
// where it has none yet. A group that is scaled to nothing stays so.
func within(was map[string]int, known bool, regions []string) map[string]int {
	nothing := known && sum(was) == 0
	out := map[string]int{}
	for _, r := range regions {
		n, there := was[r]
		if !there && !nothing {
			n = 1
		}
		out[r] = n
	}
	if !nothing && sum(out) == 0 { // all that it had was elsewhere
		out[regions[0]] = 1
	}
	return out
}

// evenly spreads n machines over regions; what is left over goes to the first.
func evenly(n int, regions []string) map[string]int {
	out := map[string]int{}
	for i, r := range regions {
		out[r] = n / len(regions)
		if i < n%len(regions) {
			out[r]++
		}
	}
	return out
}

// resizeSpread changes a group's number with as few changes as there can be:
// the smallest region grows, the largest shrinks.
func resizeSpread(was map[string]int, n int, regions []string) map[string]int {
	out := maps.Clone(was)
	for _, r := range regions {
		out[r] += 0
	}
	byCount := func(a, b string) int { return cmp.Or(cmp.Compare(out[a], out[b]), cmp.Compare(a, b)) }
	for sum(out) < n {
		out[slices.MinFunc(regions, byCount)]++
	}
	for sum(out) > n {
		out[slices.MaxFunc(slices.Collect(maps.Keys(out)), byCount)]--
	}
	return out
}

func sum(counts map[string]int) int {
	n := 0
	for _, c := range counts {
		n += c
	}
	return n
}

// present is what the app's release wants by region. One from before there were
// regions is where its machines are.
func (d *Deployer) present(former app.Release, groups map[string]api.MachineConfig, primary string) api.Spread {
	out := api.Spread{}
	for g, n := range former.Counts {
		out[g] = map[string]int{primary: n}
	}
	if former.Spread != nil {
		out = former.Spread
	} else {
		d.countMachines(former.App, out)
	}
	kept := api.Spread{}
	for g, s := range out {
		if _, ok := groups[g]; ok {
			kept[g] = s
		}
	}
	return kept
}

func (d *Deployer) countMachines(name string, out api.Spread) {
	seen := map[string]bool{}
	for _, m := range d.managed(name) {
		g := groupOf(m)
		if !seen[g] {
			seen[g], out[g] = true, map[string]int{}
		}
		out[g][d.home(m)]++
	}
}

// primary is the region of an app that names no other, and the one that goes
// first. One without nodes is stood in for by the nearest that has some.
func (d *Deployer) primary(w *work, req api.DeployRequest, former app.Release) string {
	asked := req.PrimaryRegion
	if asked == "" && len(req.Regions) > 0 {
		asked = req.Regions[0]
	}
	if asked == "" && len(former.Regions) > 0 {
		asked = former.Regions[0]
	}
	if asked == "" {
		return d.cfg.Region
	}
	there := d.regions()
	if slices.Contains(there, asked) {
		return asked
	}
	near := nearest(asked, there, d.cfg.Region)
	if len(req.Regions) == 0 && len(req.Spread) == 0 {
		w.warn("there is no node in region %q; the app goes to %q", asked, near)
	}
	return near
}

// nearest is the region that is nearest to the city asked for.
func nearest(asked string, there []string, otherwise string) string {
	from, ok := region.Lookup(asked)
	best := otherwise
	if !slices.Contains(there, best) && len(there) > 0 {
		best = there[0]
	}
	if !ok {
		return best
	}
	for _, code := range there {
		to, ok := region.Lookup(code)
		if !ok {
			continue
		}
		if b, ok := region.Lookup(best); !ok || region.RTT(from, to) < region.RTT(from, b) {
			best = code
		}
	}
	return best
}

// allowed are the regions that machines of the app may stand in, the primary one first.
func allowed(primary string, asked []string, s api.Spread) []string {
	set := map[string]bool{primary: true}
	for _, r := range asked {
		set[r] = true
	}
	for _, regions := range s {
		for r, n := range regions {
			set[r] = set[r] || n > 0
		}
	}
	var rest []string
	for r, in := range set {
		if in && r != primary {
			rest = append(rest, r)
		}
	}
	slices.Sort(rest)
	return append([]string{primary}, rest...)
}

// checkSpread refuses groups that are not there.
func (d *Deployer) checkSpread(groups map[string]api.MachineConfig, req api.DeployRequest) error {
	for _, g := range slices.Sorted(maps.Keys(req.Counts)) {
		if _, ok := groups[g]; !ok {
			return noGroup("counts."+g, g, groups)
		}
	}
	for _, g := range slices.Sorted(maps.Keys(req.Spread)) {
		if _, ok := groups[g]; !ok {
			return noGroup("spread."+g, g, groups)
		}
	}
	return nil
}

// checkRegions refuses regions that have no node. Those that the app is in already may
// have lost theirs: others stand in.
func (d *Deployer) checkRegions(s api.Spread, req api.DeployRequest, former []string) error {
	there := d.regions()
	known := slices.Concat(there, former)
	for _, r := range req.Regions {
		if !slices.Contains(known, r) {
			return noRegion(r, there)
		}
	}
	for _, g := range slices.Sorted(maps.Keys(s)) {
		for _, r := range slices.Sorted(maps.Keys(s[g])) {
			if s[g][r] > 0 && !slices.Contains(known, r) {
				return noRegion(r, there)
			}
		}
	}
	return nil
}

func noRegion(r string, there []string) error {
	return invalid("regions", "there is no node in region %q", r).WithHint("there are nodes in " + strings.Join(there, ", "))
}

// slots is the release's spread as the planner has it.
func slots(s api.Spread) map[Slot]int {
	out := map[Slot]int{}
	for g, regions := range s {
		for r, n := range regions {
			out[Slot{g, r}] = n
		}
	}
	return out
}
