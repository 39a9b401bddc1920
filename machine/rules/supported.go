package rules

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/perigee-run/perigee/api"
)

// checkSupported refuses what gVisor, or this version of the node, cannot do.
func checkSupported(c *api.MachineConfig, _ Node) error {
	g := Guest(c)
	switch {
	case g.GPUs != 0 || g.GPUKind != "":
		return unsupported("config.guest.gpus", "the sandbox has no GPU").WithHint("leave gpus and gpu_kind out")
	case len(g.KernelArgs) > 0:
		return unsupported("config.guest.kernel_args", "the sandbox's kernel takes no arguments")
	case len(c.Volumes) > 0:
		return unsupported("config.volumes", "a machine holds one image, which shares nothing with others")
	case c.Init != nil && c.Init.SwapSizeMB != 0:
		return unsupported("config.init.swap_size_mb", "the sandbox has no swap").WithHint("raise guest.memory_mb instead")
	case c.Init != nil && len(c.Init.KernelArgs) > 0:
		return unsupported("config.init.kernel_args", "the sandbox's kernel takes no arguments")
	case c.DNS != nil && len(c.DNS.ForwardRules) > 0:
		return unsupported("config.dns.dns_forward_rules", "the resolver is the node's, one for all machines").WithHint("set dns.nameservers instead")
	}
	for i := range c.Files {
		if c.Files[i].ImageConfig != nil {
			return unsupported(fmt.Sprintf("config.files[%d].image_config", i), "a machine holds one image, and no other's configuration")
		}
	}
	return checkProcesses(c)
}

func checkProcesses(c *api.MachineConfig) error {
	if len(c.Processes) > 1 {
		return unsupported("config.processes", "a machine runs one process, not %d", len(c.Processes)).
			WithHint("make one machine per process")
	}
	for i, p := range c.Processes {
		if len(p.Secrets) > 0 || p.IgnoreAppSecrets {
			return unsupported(fmt.Sprintf("config.processes[%d].secrets", i), "a machine has all secrets of its app, or none").
				WithHint("skip_secrets beside config leaves them out")
		}
	}
	return nil
}

// checkContainers takes one container that is no more than another way to say what
// the machine runs.
func checkContainers(c *api.MachineConfig, _ Node) error {
	if len(c.Containers) == 0 {
		return nil
	}
	const field = "config.containers[0]"
	k := &c.Containers[0]
	lacks := map[string]bool{"secrets": len(k.Secrets) > 0, "depends_on": len(k.DependsOn) > 0, "healthchecks": len(k.Healthchecks) > 0,
		"mounts": len(k.Mounts) > 0, "files": len(k.Files) > 0}
	switch {
	case len(c.Containers) > 1:
		return unsupported("config.containers", "a machine holds one image, not %d", len(c.Containers)).WithHint("make one machine per container")
	case len(c.Processes) > 0:
		return invalid("config.processes", "a machine has either processes or containers")
	}
	for _, name := range []string{"secrets", "depends_on", "healthchecks", "mounts", "files"} {
		if lacks[name] {
			return unsupported(field+"."+name, "a container that is alone in its machine has none").WithHint("use the machine's own fields")
		}
	}
	if err := Args(field, k.Exec, k.Entrypoint, k.Cmd); err != nil {
		return err
	}
	if err := Env(field+".env", k.Env); err != nil {
		return err
	}
	if len(k.User) > 256 || strings.ContainsFunc(k.User, notPrintable) {
		return invalid(field+".user", "%q is not a user, uid, user:group or uid:gid", k.User)
	}
	return checkEnvFrom(field, k.EnvFrom)
}

// fieldRefs are what a variable may be made from.
var fieldRefs = []string{"id", "version", "app_name", "private_ip", "region", "image"}

func checkEnvFrom(field string, all []api.EnvFrom) error {
	for i, e := range all {
		at := fmt.Sprintf("%s.env_from[%d]", field, i)
		if !envForm.MatchString(e.EnvVar) {
			return invalid(at+".env_var", "%q cannot name a variable; use letters, digits and underscores, a letter first", e.EnvVar)
		}
		if !slices.Contains(fieldRefs, e.FieldRef) {
			return invalid(at+".field_ref", "is %q; it can be %s", e.FieldRef, strings.Join(fieldRefs, ", "))
		}
	}
	return nil
}

const maxStandbys = 16

var (
	idForm    = regexp.MustCompile(`^[0-9a-f]{14}$`)
	sizeForm  = regexp.MustCompile(`^(shared-cpu|performance)-([1-9][0-9]?)x$`)
	schedules = []string{"", "hourly", "daily", "weekly", "monthly"}
)

// checkTimetable is about when a machine runs by itself.
func checkTimetable(c *api.MachineConfig, _ Node) error {
	if !slices.Contains(schedules, c.Schedule) {
		return invalid("config.schedule", "is %q; it can be hourly, daily, weekly or monthly", c.Schedule)
	}
	if len(c.Standbys) > maxStandbys {
		return invalid("config.standbys", "names %d machines, the most is %d", len(c.Standbys), maxStandbys)
	}
	for i, id := range c.Standbys {
		if !idForm.MatchString(id) {
			return invalid(fmt.Sprintf("config.standbys[%d]", i), "%q is no machine's id", id)
		}
	}
	if c.Schedule != "" && len(c.Standbys) > 0 {
		return invalid("config.standbys", "a machine with a schedule cannot stand by for others")
	}
	return nil
}
