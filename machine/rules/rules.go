package rules

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/appconfig"
)

// The limits of one machine's configuration. Together they keep a record well
// below the catalog's largest.
const (
	// MaxSize is the most that [Size] may be.
	MaxSize      = 384 << 10
	maxEnv       = 512
	maxEnvBytes  = 128 << 10 // the kernel's limit for one string
	maxMetadata  = 128
	maxArgs      = 1024
	maxFiles     = 64
	maxFileBytes = 256 << 10
	maxServices  = 32
	maxPorts     = 32
	maxChecks    = 32
	// MinMemoryMB is the least that a machine runs in.
	MinMemoryMB    = 64
	maxPIDs        = 65536
	maxStopTimeout = 5 * time.Minute
	maxRetries     = 1000
)

var (
	envForm      = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]{0,254}$`)
	nameForm     = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	metadataForm = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.:/-]{0,62}$`)
	hostForm     = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$`)
	optionForm   = regexp.MustCompile(`^[a-z0-9-]{1,32}$`)
	headerForm   = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}$")
	methodForm   = regexp.MustCompile(`^[A-Z]{1,16}$`)
)

// ours are the directories that a file may not be put into: the machine's
// kernel makes them.
var ours = []string{"/proc", "/sys", "/dev", "/.fly", "/.perigee"}

func invalid(field, format string, a ...any) *api.Error {
	return api.Errorf(api.CodeInvalid, "%s: "+format, append([]any{field}, a...)...).WithField(field)
}

func unsupported(field, format string, a ...any) *api.Error {
	return api.Errorf(api.CodeUnsupported, "%s: "+format, append([]any{field}, a...)...).WithField(field)
}

// Node is what one machine may have on the node that it is for.
type Node struct{ CPUs, MemoryMB int }

// Check reports the first thing in c that cannot be on the node, naming its field.
// It does not look at the image.
func Check(c *api.MachineConfig, b Node) error {
	if c == nil {
		return invalid("config", "is missing")
	}
	if n := Size(c); n > MaxSize {
		return invalid("config", "has %d bytes, the most is %d", n, MaxSize).WithHint("put large files into the image")
	}
	for _, test := range []func(*api.MachineConfig, Node) error{
		checkSupported, checkContainers, checkImageRef, checkGuest, checkTimetable, checkInit, checkEnv, checkMetadata, checkFiles, checkServices,
		checkNamedChecks, checkRestart, checkStop, checkRootfs, checkMounts, checkDNS,
	} {
		if err := test(c, b); err != nil {
			return err
		}
	}
	return nil
}

// Size is how many bytes of JSON the configuration has; MaxSize is the most.
func Size(c *api.MachineConfig) int {
	b, err := json.Marshal(c)
	if err != nil {
		return MaxSize + 1
	}
	return len(b)
}

func checkImageRef(c *api.MachineConfig, _ Node) error {
	switch {
	case c.Image == "":
		return invalid("config.image", "is missing").WithHint("name an image by tag or by digest")
	case len(c.Image) > 512:
		return invalid("config.image", "is longer than 512 characters")
	case strings.ContainsFunc(c.Image, notPrintable):
		return invalid("config.image", "%q has a space or a control character in it", c.Image)
	}
	return nil
}

func notPrintable(r rune) bool { return r <= ' ' || r == 0x7f }

func checkGuest(c *api.MachineConfig, b Node) error {
	g := Guest(c)
	switch {
	case g.CPUKind != "shared" && g.CPUKind != "performance":
		return invalid("config.guest.cpu_kind", "is %q; it can be shared or performance", g.CPUKind)
	case g.CPUs < 1:
		return invalid("config.guest.cpus", "is %d; the least is 1", g.CPUs)
	case g.CPUs > b.CPUs:
		return invalid("config.guest.cpus", "is %d; this node has %d", g.CPUs, b.CPUs)
	case g.MemoryMB < MinMemoryMB:
		return invalid("config.guest.memory_mb", "is %d; the least is %d", g.MemoryMB, MinMemoryMB)
	case g.MemoryMB > b.MemoryMB:
		return invalid("config.guest.memory_mb", "is %d; this node has %d", g.MemoryMB, b.MemoryMB)
	case g.MaxMemoryMB != 0 && g.MaxMemoryMB < g.MemoryMB:
		return invalid("config.guest.max_memory_mb", "is %d, less than memory_mb, which is %d", g.MaxMemoryMB, g.MemoryMB)
	case g.MaxMemoryMB > b.MemoryMB:
		return invalid("config.guest.max_memory_mb", "is %d; this node has %d", g.MaxMemoryMB, b.MemoryMB)
	case g.PIDs < 1 || g.PIDs > maxPIDs:
		return invalid("config.guest.pids", "is %d; it can be 1 to %d", g.PIDs, maxPIDs)
	}
	return nil
}

func checkInit(c *api.MachineConfig, _ Node) error {
	for i, p := range c.Processes {
		field := fmt.Sprintf("config.processes[%d]", i)
		if err := Args(field, p.Exec, p.Entrypoint, p.Cmd); err != nil {
			return err
		}
		if err := Env(field+".env", p.Env); err != nil {
			return err
		}
		if err := checkEnvFrom(field, p.EnvFrom); err != nil {
			return err
		}
	}
	in := c.Init
	if in == nil {
		return nil
	}
	if err := Args("config.init", in.Exec, in.Entrypoint, in.Cmd); err != nil {
		return err
	}
	switch {
	case in.WorkingDir != "" && !path.IsAbs(in.WorkingDir):
		return invalid("config.init.working_dir", "%q does not begin with a slash", in.WorkingDir)
	case len(in.WorkingDir) > 4095 || strings.ContainsRune(in.WorkingDir, 0):
		return invalid("config.init.working_dir", "is too long or has a zero byte in it")
	case len(in.User) > 256 || strings.ContainsFunc(in.User, notPrintable):
		return invalid("config.init.user", "%q is not a user, uid, user:group or uid:gid", in.User)
	}
	return nil
}

// Args refuses words that a process cannot be started with.
func Args(field string, exec, entrypoint, cmd []string) error {
	for name, args := range map[string][]string{"exec": exec, "entrypoint": entrypoint, "cmd": cmd} {
		if len(args) > maxArgs {
			return invalid(field+"."+name, "has %d words, the most is %d", len(args), maxArgs)
		}
		for i, a := range args {
			if len(a) > maxEnvBytes || strings.ContainsRune(a, 0) {
				return invalid(fmt.Sprintf("%s.%s[%d]", field, name, i), "is longer than %d bytes or has a zero byte in it", maxEnvBytes)
			}
		}
		if len(args) > 0 && args[0] == "" && name != "cmd" {
			return invalid(field+"."+name, "the program's name is empty")
		}
	}
	return nil
}

func checkEnv(c *api.MachineConfig, _ Node) error { return Env("config.env", c.Env) }

// Env refuses what cannot be an environment.
func Env(field string, env map[string]string) error {
	if len(env) > maxEnv {
		return invalid(field, "has %d variables, the most is %d", len(env), maxEnv)
	}
	for _, k := range slices.Sorted(maps.Keys(env)) {
		switch v := env[k]; {
		case !envForm.MatchString(k):
			return invalid(field+"."+k, "%q cannot name a variable; use letters, digits and underscores, a letter first", k)
		case len(v) > maxEnvBytes:
			return invalid(field+"."+k, "has %d bytes, the most is %d", len(v), maxEnvBytes)
		case strings.ContainsRune(v, 0):
			return invalid(field+"."+k, "has a zero byte in it")
		}
	}
	return nil
}

func checkMetadata(c *api.MachineConfig, _ Node) error { return Metadata(c.Metadata) }

// Metadata refuses what cannot be a machine's metadata.
func Metadata(all map[string]string) error {
	if len(all) > maxMetadata {
		return invalid("config.metadata", "has %d entries, the most is %d", len(all), maxMetadata)
	}
	for _, k := range slices.Sorted(maps.Keys(all)) {
		if err := checkMetadatum("config.metadata."+k, k, all[k]); err != nil {
			return err
		}
	}
	return nil
}

func checkMetadatum(field, key, value string) error {
	if !metadataForm.MatchString(key) {
		return invalid(field, "%q cannot be a metadata key; use up to 63 letters, digits, and _ . : / -", key)
	}
	if len(value) > 4096 {
		return invalid(field, "has %d bytes, the most is 4096", len(value))
	}
	return nil
}

func checkFiles(c *api.MachineConfig, _ Node) error {
	if len(c.Files) > maxFiles {
		return invalid("config.files", "has %d files, the most is %d", len(c.Files), maxFiles)
	}
	seen := map[string]bool{}
	for i := range c.Files {
		field := fmt.Sprintf("config.files[%d]", i)
		if err := checkFile(field, &c.Files[i]); err != nil {
			return err
		}
		p := path.Clean(c.Files[i].GuestPath)
		if seen[p] {
			return invalid(field+".guest_path", "%q is there twice", p)
		}
		seen[p] = true
	}
	return nil
}

func checkFile(field string, f *api.File) error {
	if err := checkGuestPath(field+".guest_path", f.GuestPath); err != nil {
		return err
	}
	switch {
	case (f.RawValue == nil) == (f.SecretName == nil):
		return invalid(field, "needs either raw_value or secret_name")
	case f.SecretName != nil && appconfig.CheckSecretName(*f.SecretName) != nil:
		return invalid(field+".secret_name", "%v", appconfig.CheckSecretName(*f.SecretName))
	case f.Mode&^0o7777 != 0:
		return invalid(field+".mode", "%#o is not a file mode; use 0 to 07777", f.Mode)
	case f.RawValue == nil:
		return nil
	}
	b, err := base64.StdEncoding.DecodeString(*f.RawValue)
	if err != nil {
		return invalid(field+".raw_value", "is not base64: %v", err)
	}
	if len(b) > maxFileBytes {
		return invalid(field+".raw_value", "has %d bytes, the most is %d", len(b), maxFileBytes).WithHint("put large files into the image")
	}
	return nil
}

func checkGuestPath(field, p string) error {
	clean := path.Clean(p)
	switch {
	case !path.IsAbs(p) || clean == "/" || strings.HasSuffix(p, "/"):
		return invalid(field, "%q is not the absolute path of a file", p)
	case len(p) > 4095 || strings.ContainsRune(p, 0):
		return invalid(field, "is too long or has a zero byte in it")
	case slices.Contains(strings.Split(p, "/"), ".."):
		return invalid(field, "%q has .. in it", p)
	}
	for _, d := range ours {
		if clean == d || strings.HasPrefix(clean, d+"/") {
			return invalid(field, "%q is in %s, which belongs to the system", p, d)
		}
	}
	return nil
}

func checkRestart(c *api.MachineConfig, _ Node) error {
	r := c.Restart
	if r == nil {
		return nil
	}
	if !slices.Contains([]string{"", "no", "on-failure", "always"}, r.Policy) {
		return invalid("config.restart.policy", "is %q; it can be no, on-failure or always", r.Policy)
	}
	if r.MaxRetries < 0 || r.MaxRetries > maxRetries {
		return invalid("config.restart.max_retries", "is %d; it can be 0 to %d", r.MaxRetries, maxRetries)
	}
	return nil
}

func checkStop(c *api.MachineConfig, _ Node) error {
	if c.StopConfig == nil {
		return nil
	}
	return stop("config.stop_config.", c.StopConfig.Signal, c.StopConfig.Timeout)
}

// Stop refuses a signal or a time, of a request, that a machine cannot be stopped with.
func Stop(signal string, timeout *api.Duration) error { return stop("", signal, timeout) }

func stop(of, signal string, timeout *api.Duration) error {
	if signal != "" {
		if _, err := Signal(of+"signal", signal); err != nil {
			return err
		}
	}
	return checkSpan(of+"timeout", timeout, 0, maxStopTimeout)
}

// checkSpan tests a duration that may be left out.
func checkSpan(field string, d *api.Duration, least, most time.Duration) error {
	if v := d.Or(least); v < least || v > most {
		return invalid(field, "is %s; it can be %s to %s", v, least, most)
	}
	return nil
}

// RootfsGB is how much a machine keeps of what it writes outside of volumes, in GiB,
// where it does not say.
const (
	RootfsGB    = 8
	maxRootfsGB = 16384
)

func checkRootfs(c *api.MachineConfig, _ Node) error {
	allowed := []string{"", "never", "restart", "always"}
	if c.Guest != nil && !slices.Contains(allowed, c.Guest.PersistRootfs) {
		return invalid("config.guest.persist_rootfs", "is %q; it can be never, restart or always", c.Guest.PersistRootfs)
	}
	if c.Rootfs == nil {
		return nil
	}
	if !slices.Contains(allowed, c.Rootfs.Persist) {
		return invalid("config.rootfs.persist", "is %q; it can be never, restart or always", c.Rootfs.Persist)
	}
	if c.Rootfs.SizeGB < 0 || c.Rootfs.SizeGB > maxRootfsGB {
		return invalid("config.rootfs.size_gb", "is %d; it can be 1 to %d, or 0 for %d", c.Rootfs.SizeGB, maxRootfsGB, RootfsGB)
	}
	return nil
}

func checkDNS(c *api.MachineConfig, _ Node) error {
	d := c.DNS
	if d == nil {
		return nil
	}
	for i, s := range d.Nameservers {
		if a, err := netip.ParseAddr(s); err != nil || a.Zone() != "" || i >= 3 {
			return invalid(fmt.Sprintf("config.dns.nameservers[%d]", i), "%q is not an IP address, or there are more than three", s)
		}
	}
	for i, s := range d.Searches {
		if !hostForm.MatchString(s) || i >= 6 {
			return invalid(fmt.Sprintf("config.dns.searches[%d]", i), "%q is not a domain, or there are more than six", s)
		}
	}
	for i, o := range d.Options {
		if !optionForm.MatchString(o.Name) || o.Value != "" && !optionForm.MatchString(o.Value) || i >= 16 {
			return invalid(fmt.Sprintf("config.dns.options[%d]", i), "%q is no option of a resolver, or there are more than sixteen", o.Name)
		}
	}
	if f := d.HostnameFQDN; f != "" && (!hostForm.MatchString(f) || !strings.Contains(f, ".")) {
		return invalid("config.dns.hostname_fqdn", "%q is not a full host name", f)
	}
	if d.Hostname != "" && (!hostForm.MatchString(d.Hostname) || len(d.Hostname) > 64) {
		return invalid("config.dns.hostname", "%q is not a host name of at most 64 characters", d.Hostname)
	}
	return nil
}

// Name refuses what cannot name a machine.
func Name(s string) error {
	if !nameForm.MatchString(s) {
		return invalid("name", "%q cannot name a machine; use 1 to 63 lower-case letters, digits and hyphens", s)
	}
	return nil
}

// Guest returns the size with its defaults filled in: one shared CPU, 256 MiB, 4096
// processes.
func Guest(c *api.MachineConfig) api.Guest {
	g := api.Guest{}
	if c.Guest != nil {
		g = *c.Guest
	}
	orElse(&g.CPUKind, "shared")
	orElse(&g.CPUs, 1)
	orElse(&g.MemoryMB, 256)
	orElse(&g.PIDs, 4096)
	return g
}

func orElse[T comparable](p *T, def T) {
	var zero T
	if *p == zero {
		*p = def
	}
}
