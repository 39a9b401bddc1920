package rules

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/perigee-run/perigee/api"
)

const (
	maxMounts = 8
	maxVolume = 16384 // GiB
)

// checkMounts looks at the mounts themselves, not at the volumes.
func checkMounts(c *api.MachineConfig, _ Node) error {
	if n := len(c.Mounts); n > maxMounts {
		return invalid("config.mounts", "there are %d, the most is %d", n, maxMounts)
	}
	at, volumes := map[string]bool{}, map[string]bool{}
	for i, m := range c.Mounts {
		field := fmt.Sprintf("config.mounts[%d]", i)
		if err := checkMount(field, m); err != nil {
			return err
		}
		p := path.Clean(m.Path)
		if at[p] {
			return invalid(field+".path", "%q is mounted twice", p)
		}
		if m.Volume != "" && volumes[m.Volume] {
			return invalid(field+".volume", "volume %q is mounted twice", m.Volume)
		}
		at[p], volumes[m.Volume] = true, true
	}
	return nil
}

func checkMount(field string, m api.Mount) error {
	switch p := path.Clean(m.Path); {
	case m.Volume == "" && m.Name == "":
		return invalid(field+".volume", "is missing").WithHint("name a volume by its id, or by name")
	case !path.IsAbs(m.Path) || p == "/" || strings.ContainsRune(m.Path, 0) || len(m.Path) > 4096:
		return invalid(field+".path", "is %q; it must be an absolute path below /", m.Path)
	case slices.Contains(strings.Split(m.Path, "/"), ".."):
		return invalid(field+".path", "%q has .. in it", m.Path)
	case isOurs(p):
		return invalid(field+".path", "%q is the machine's own", p)
	case m.ExtendThresholdPercent < 0 || m.ExtendThresholdPercent > 100:
		return invalid(field+".extend_threshold_percent", "is %d; it can be 1 to 100, or 0 for never", m.ExtendThresholdPercent)
	case m.AddSizeGB < 0 || m.AddSizeGB > maxVolume:
		return invalid(field+".add_size_gb", "is %d; it can be 1 to %d", m.AddSizeGB, maxVolume)
	case m.SizeGBLimit < 0 || m.SizeGBLimit > maxVolume:
		return invalid(field+".size_gb_limit", "is %d; it can be 1 to %d, or 0 for none", m.SizeGBLimit, maxVolume)
	case m.SizeGB < 0 || m.SizeGB > maxVolume:
		return invalid(field+".size_gb", "is %d; it can be 1 to %d", m.SizeGB, maxVolume)
	}
	return nil
}

func isOurs(p string) bool {
	for _, dir := range ours {
		if p == dir || strings.HasPrefix(p, dir+"/") {
			return true
		}
	}
	return false
}
