//go:build linux

package cities

import (
	"fmt"
	"strings"
	"time"

	"github.com/perigee-run/perigee/api"
)

// inside: a machine asks its own node, by the socket in it, about machines of its
// app in other cities, and runs commands in them.
func (c *cloud) inside(string) {
	c.Helper()
	var here, there api.Machine
	for _, m := range c.machines("iad") {
		switch m.Region {
		case "iad":
			here = m
		case "syd":
			there = m
		}
	}
	call := func(method, path, body string) string {
		r, err := c.nodes["iad"].Client().Exec(c.Context(), "shop", here.ID, api.ExecRequest{Command: []string{"/testapp", "api", "/.fly/api", "1", method, path, body}})
		if err != nil {
			return err.Error()
		}
		return r.Stdout
	}
	const machines = "/v1/apps/shop/machines"
	c.eventually("a machine sees those of other cities", 20*time.Second, func() bool {
		out := call("GET", machines, "")
		return strings.HasPrefix(out, "1 x 200") && strings.Contains(out, here.ID) && strings.Contains(out, there.ID)
	})
	command := fmt.Sprintf(`{"command":["/testapp","api","/.fly/api","1","GET",%q,""]}`, machines+"/"+there.ID)
	if out := call("POST", machines+"/"+there.ID+"/exec", command); !strings.HasPrefix(out, "1 x 200") || !strings.Contains(out, `1 x 200 {\"`) {
		c.Errorf("from a machine in iad, through one in syd: %s", out)
	}
}
