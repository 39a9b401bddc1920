package rules

import (
	"strconv"

	"github.com/perigee-run/perigee/api"
)

// Fold puts what is said in Fly's other forms, a size by name, one container, autostart
// of the whole machine, into the fields that the node looks at. What was said stays as
// it was said. It reports what cannot be.
func Fold(c *api.MachineConfig) error {
	if c == nil {
		return nil
	}
	if err := foldSize(c); err != nil {
		return err
	}
	fillGuest(c)
	if len(c.Containers) == 1 {
		foldContainer(c, &c.Containers[0])
	}
	if c.DisableMachineAutostart != nil {
		start := !*c.DisableMachineAutostart
		for i := range c.Services {
			if c.Services[i].Autostart == nil {
				c.Services[i].Autostart = &start
			}
		}
	}
	return nil
}

// fillGuest writes down the size that a machine has where its configuration says
// nothing of it: Fly's clients look for it there.
func fillGuest(c *api.MachineConfig) {
	g, pids := Guest(c), 0
	if c.Guest != nil {
		pids = c.Guest.PIDs
	}
	g.PIDs = pids // ours alone
	c.Guest = &g
}

// foldSize makes a guest of a name such as shared-cpu-2x, where there is none.
func foldSize(c *api.MachineConfig) error {
	if c.Size == "" || c.Guest != nil {
		return nil
	}
	m := sizeForm.FindStringSubmatch(c.Size)
	if m == nil {
		return invalid("config.size", "is %q; it can be such as shared-cpu-1x or performance-2x", c.Size)
	}
	n, err := strconv.Atoi(m[2])
	if err != nil {
		return invalid("config.size", "is %q: %v", c.Size, err)
	}
	c.Guest = &api.Guest{CPUKind: "shared", CPUs: n, MemoryMB: 256 * n}
	if m[1] == "performance" {
		c.Guest = &api.Guest{CPUKind: "performance", CPUs: n, MemoryMB: 2048 * n}
	}
	return nil
}

func foldContainer(c *api.MachineConfig, k *api.Container) {
	if k.Image != "" {
		c.Image = k.Image
	}
	if k.Restart != nil {
		c.Restart = k.Restart
	}
	if k.Stop != nil {
		c.StopConfig = k.Stop
	}
}
