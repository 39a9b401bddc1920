package appconfig

import (
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/perigee-run/perigee/api"
)

// A node waits no longer than this for a machine to stop, and for one step of a
// deploy.
const (
	maxStop       = 5 * time.Minute
	maxDeployWait = time.Hour
)

// check is what a rule reports to: findings at keys of the Config.
type check struct {
	*decoder
	cfg *Config
}

func (d *decoder) validate(cfg *Config) {
	c := check{d, cfg}
	c.top()
	c.build()
	c.deploy()
	c.processes()
	c.env()
	c.services()
	c.namedChecks()
	c.mounts()
	c.files()
	c.restart()
	c.sizes()
	c.statics()
}

func (c check) errorf(key, format string, a ...any) { c.fail(c.placeOf(key), format, a...) }
func (c check) warnf(key, format string, a ...any)  { c.warn(c.placeOf(key), format, a...) }

func (c check) oneOf(key, value string, allowed ...string) {
	if value != "" && !slices.Contains(allowed, value) {
		c.errorf(key, "is %s; it can be %s", show(value), strings.Join(allowed, ", "))
	}
}

func (c check) top() {
	cfg := c.cfg
	if cfg.App != "" {
		if err := CheckAppName(cfg.App); err != nil {
			c.errorf("app", "%v", err)
		}
	}
	c.region("primary_region", cfg.PrimaryRegion)
	c.regions()
	if cfg.KillSignal != "" && !knownSignal(cfg.KillSignal) {
		c.errorf("kill_signal", "%s is not a signal; write one such as SIGTERM", show(cfg.KillSignal))
	}
	c.span("kill_timeout", cfg.KillTimeout, 0, maxStop)
	c.span("experimental.kill_timeout", cfg.Experimental.KillTimeout, 0, maxStop)
	c.command("console_command", cfg.ConsoleCommand)
}

func (c check) region(key, r string) {
	if r != "" && !regionForm.MatchString(r) {
		c.errorf(key, "%s is not a region; write a code such as iad or fra: 2 to 16 lower-case letters and digits", show(r))
	}
}

func (c check) span(key string, d *api.Duration, least, most time.Duration) {
	if v := d.Or(least); v < least || v > most {
		c.errorf(key, "is %s; it can be %s to %s", v, least, most)
	}
}

func (c check) command(key, s string) {
	words, err := splitWords(s)
	switch {
	case err != nil:
		c.errorf(key, "cannot be split into words: %v", err)
	case strings.ContainsRune(s, 0):
		c.errorf(key, "has a zero byte in it")
	case len(words) > 0 && words[0] == "":
		c.errorf(key, "begins with an empty word")
	}
}

func (c check) build() {
	b := c.cfg.Build
	if strings.ContainsFunc(b.Image, unicode.IsSpace) {
		c.errorf("build.image", "%s has a space in it", show(b.Image))
	}
	if b.Image != "" && b.Dockerfile != "" {
		c.warnf("build.dockerfile", "is not used, because build.image is given")
	}
	for name := range b.Args {
		if name == "" || strings.ContainsAny(name, "= \x00") {
			c.errorf("build.args", "%s cannot name a build argument", show(name))
		}
	}
}

func (c check) deploy() {
	d := c.cfg.Deploy
	c.oneOf("deploy.strategy", d.Strategy, "rolling", "immediate", "canary", "bluegreen")
	if d.MaxUnavailable < 0 || d.MaxUnavailable > 1 && d.MaxUnavailable != float64(int(d.MaxUnavailable)) {
		c.errorf("deploy.max_unavailable", "is %v; write a number of machines, or a share below 1", d.MaxUnavailable)
	}
	c.span("deploy.wait_timeout", d.WaitTimeout, time.Second, maxDeployWait)
	c.span("deploy.release_command_timeout", d.ReleaseCommandTimeout, time.Second, maxDeployWait)
	c.command("deploy.release_command", d.ReleaseCommand)
}

func (c check) processes() {
	for _, name := range slices.Sorted(maps.Keys(c.cfg.Processes)) {
		key := join("processes", name)
		if !groupForm.MatchString(name) {
			c.errorf(key, "%s cannot name a process group; use up to 63 lower-case letters, digits, '-' and '_'", show(name))
		}
		c.command(key, c.cfg.Processes[name])
	}
}

// groups checks that what is tied to process groups names ones that are there.
func (c check) groups(key string, names []string) {
	known := c.cfg.Groups()
	for i, name := range names {
		if !slices.Contains(known, name) {
			c.errorf(index(key+".processes", i), "there is no process group %s; there is %s", show(name), strings.Join(known, ", "))
		}
	}
}

func (c check) env() {
	for _, name := range slices.Sorted(maps.Keys(c.cfg.Env)) {
		key := join("env", name)
		if !envForm.MatchString(name) {
			c.errorf(key, "%s cannot name a variable; use letters, digits and '_', no digit first", show(name))
		}
		if strings.ContainsRune(c.cfg.Env[name], 0) {
			c.errorf(key, "has a zero byte in it")
		}
	}
}

var volumeName = regexp.MustCompile(`^[a-z0-9_]{1,30}$`)

func (c check) mounts() {
	seen := map[string]string{}
	for i, m := range c.cfg.Mounts {
		key := index("mounts", i)
		if m.Source == "" {
			c.errorf(key+".source", "is missing: name the volume")
		} else if !volumeName.MatchString(m.Source) {
			c.errorf(key+".source", "%s is no name of a volume; it can be 1 to 30 lower-case letters, digits and underscores", show(m.Source))
		}
		if r := m.SnapshotRetention; r != nil && (*r < 1 || *r > 60) {
			c.errorf(key+".snapshot_retention", "is %d; it can be 1 to 60 days", *r)
		}
		c.absolute(key+".destination", m.Destination)
		c.groups(key, m.Processes)
		for _, g := range c.cfg.members(m.Processes) {
			for _, what := range []string{"volume " + m.Source, "path " + path.Clean(m.Destination)} {
				if first, twice := seen[g+"\x00"+what]; twice {
					c.errorf(key, "%s is mounted by %s already", what, first)
				}
				seen[g+"\x00"+what] = key
			}
		}
		if m.InitialSize != "" {
			if _, err := sizeGB(m.InitialSize); err != nil {
				c.errorf(key+".initial_size", "%v", err)
			}
		}
		c.extend(key, m)
	}
}

func (c check) extend(key string, m Mount) {
	if m.AutoExtendSizeThreshold < 0 || m.AutoExtendSizeThreshold > 100 {
		c.errorf(key+".auto_extend_size_threshold", "is %d; it is a percentage", m.AutoExtendSizeThreshold)
	}
	for name, size := range map[string]string{"increment": m.AutoExtendSizeIncrement, "limit": m.AutoExtendSizeLimit} {
		if _, err := sizeGB(size); size != "" && err != nil {
			c.errorf(key+".auto_extend_size_"+name, "%v", err)
		}
	}
}

func (c check) absolute(key, p string) {
	switch {
	case p == "":
		c.errorf(key, "is missing")
	case !path.IsAbs(p):
		c.errorf(key, "%s does not begin with a slash", show(p))
	case path.Clean(p) == "/" || strings.ContainsRune(p, 0):
		c.errorf(key, "%s is not a place to put anything", show(p))
	}
}

func (c check) files() {
	seen := map[string]string{}
	for i, f := range c.cfg.Files {
		key := index("files", i)
		c.absolute(key+".guest_path", f.GuestPath)
		c.groups(key, f.Processes)
		sources := 0
		for _, s := range []string{f.LocalPath, f.RawValue, f.SecretName} {
			if s != "" {
				sources++
			}
		}
		if sources != 1 {
			c.errorf(key, "has %d of local_path, raw_value and secret_name; give exactly one", sources)
		}
		if f.SecretName != "" {
			if err := CheckSecretName(f.SecretName); err != nil {
				c.errorf(key+".secret_name", "%v", err)
			}
		}
		for _, g := range c.cfg.members(f.Processes) {
			at := g + "\x00" + path.Clean(f.GuestPath)
			if first, twice := seen[at]; twice {
				c.errorf(key+".guest_path", "%s is written by %s already", show(f.GuestPath), first)
			}
			seen[at] = key
		}
	}
}

func (c check) restart() {
	seen := map[string]bool{}
	for i, r := range c.cfg.Restart {
		key := index("restart", i)
		c.groups(key, r.Processes)
		c.oneOf(key+".policy", r.Policy, "always", "on-failure", "never", "no", "on-fail")
		if r.Retries < 0 || r.Retries > 1000 {
			c.errorf(key+".retries", "is %d; it can be 0 to 1000", r.Retries)
		}
		for _, g := range c.cfg.members(r.Processes) {
			if seen[g] {
				c.errorf(key, "process group %q has a [[restart]] already", g)
			}
			seen[g] = true
		}
	}
}

func (c check) sizes() {
	seen := map[string]bool{}
	for i, vm := range c.cfg.VM {
		key := index("vm", i)
		c.groups(key, vm.Processes)
		c.size(key, vm)
		for _, g := range append([]string{}, vm.Processes...) {
			if seen[g] {
				c.errorf(key, "process group %q has a [[vm]] already", g)
			}
			seen[g] = true
		}
		if len(vm.Processes) == 0 && seen[""] {
			c.errorf(key, "there is a [[vm]] for all process groups already; name some in processes")
		}
		seen[""] = seen[""] || len(vm.Processes) == 0
	}
	if vm := c.cfg.Deploy.ReleaseCommandVM; vm != nil {
		c.size("deploy.release_command_vm", *vm)
	}
}

func (c check) size(key string, vm VM) {
	g, err := vm.guest()
	if err != nil {
		c.errorf(key+".size", "%v", err)
		return
	}
	c.oneOf(key+".cpu_kind", vm.CPUKind, "shared", "performance")
	c.oneOf(key+".persist_rootfs", vm.PersistRootfs, "never", "restart", "always")
	if vm.PersistRootfs == "always" {
		c.warnf(key+".persist_rootfs", "keeps what a machine writes for as long as it exists, but a deploy makes new machines: nothing outlives a deploy")
	}
	if vm.GPUs != 0 || vm.GPUKind != "" {
		c.errorf(key+".gpus", "the sandbox has no GPU; leave gpus and gpu_kind out")
	}
	if vm.Memory != 0 && vm.MemoryMB != 0 {
		c.errorf(key+".memory_mb", "and memory are both there; keep memory")
	}
	if vm.CPUs < 0 || g.CPUs > 128 {
		c.errorf(key+".cpus", "is %d; it can be 1 to 128", vm.CPUs)
	}
	if g.MemoryMB < 64 || g.MemoryMB > 1<<20 {
		c.errorf(key+".memory", "is %dmb; it can be 64mb to 1024gb", g.MemoryMB)
	}
}

func (c check) statics() {
	for i, s := range c.cfg.Statics {
		key := index("statics", i)
		if s.GuestPath == "" && s.TigrisBucket == "" {
			c.errorf(key+".guest_path", "is missing")
		}
		if !strings.HasPrefix(s.URLPrefix, "/") {
			c.errorf(key+".url_prefix", "%s does not begin with a slash", show(s.URLPrefix))
		}
	}
	for i, m := range c.cfg.Metrics {
		key := index("metrics", i)
		c.port(key+".port", m.Port)
		c.groups(key, m.Processes)
	}
}
