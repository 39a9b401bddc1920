//go:build linux

package lab

import (
	"strings"
)

// city is the lab's own host in a city.
type city struct {
	host *Host
}

const ownPrefix = "net-"

func (h *Host) own() bool { return strings.HasPrefix(h.Name, ownPrefix) }

func (l *Lab) openCity(i int) (*city, error) {
	h, err := l.plug(ownPrefix+l.cfg.Cities[i], i, 1)
	if err != nil {
		return nil, err
	}
	return &city{host: h}, nil
}

func (c *city) close() {}
