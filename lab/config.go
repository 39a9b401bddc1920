//go:build linux

package lab

import (
	"crypto/sha256"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"time"
)

// Config says which cities there are. The zero value of every field but Cities
// is useful.
type Config struct {
	// Cities are codes that package region knows, up to 64. Required.
	Cities []string
	// Name tells the network devices of one lab's nodes from another's: up to 5
	// lower-case letters and digits. Default "lab", or one of its own if Dir is set.
	Name string
	// Dir is where the lab keeps its files; they are gone after Close. Only one
	// lab may be in it. Default /var/lib/perigee-lab.
	Dir string
	// Keep leaves the nodes' data in Dir after Close.
	Keep bool
	// Converge is how long news of a route takes to every city. Default: as long
	// as a packet takes there.
	Converge time.Duration
	// Reroute is how long the cities' routers take to notice that a city is cut
	// off, or is back. Default 300 ms.
	Reroute time.Duration
	// Logger defaults to slog.Default().
	Logger *slog.Logger
}

// DefaultDir is where a lab is if nothing else is said.
const DefaultDir = "/var/lib/perigee-lab"

const maxCities = 64

var labName = regexp.MustCompile(`^[a-z][a-z0-9]{0,4}$`)

func (c *Config) defaults() error {
	if c.Dir == "" {
		c.Dir = DefaultDir
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return err
	}
	c.Dir = dir
	if c.Name == "" {
		c.Name = nameFor(dir)
	}
	switch {
	case os.Geteuid() != 0:
		return fmt.Errorf("cannot make a lab: it needs namespaces and network devices: run as root")
	case !labName.MatchString(c.Name):
		return fmt.Errorf("cannot use %q as the lab's name: want up to 5 lower-case letters and digits", c.Name)
	case len(c.Cities) > maxCities:
		return fmt.Errorf("cannot make a lab of %d cities: want up to %d", len(c.Cities), maxCities)
	}
	return nil
}

// nameFor is the same for a directory each time, so that kept data fits.
func nameFor(dir string) string {
	if dir == DefaultDir {
		return "lab"
	}
	sum := sha256.Sum256([]byte(dir))
	return fmt.Sprintf("l%x", sum[:2])
}
