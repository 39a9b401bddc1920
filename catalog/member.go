package catalog

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/perigee-run/perigee/internal/durable"
)

const membersFile = "members.json" // in Dir

// Member is a node that keeps the replicated state.
type Member struct {
	Name string `json:"name"`
	// ClientAddr and RouteAddr are host:port, as other nodes reach them: the
	// first for those who use the state, the second for the other members.
	ClientAddr string `json:"client_addr"`
	RouteAddr  string `json:"route_addr"`
}

func (m Member) check() error {
	if err := CheckKey(m.Name); err != nil {
		return err
	}
	for _, addr := range []string{m.ClientAddr, m.RouteAddr} {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return fmt.Errorf("member %q: %w; use host:port", m.Name, err)
		}
	}
	return nil
}

func checkMembers(members []Member) error {
	names := map[string]bool{}
	for _, m := range members {
		if err := m.check(); err != nil {
			return err
		}
		if names[m.Name] {
			return fmt.Errorf("member %q is named twice", m.Name)
		}
		names[m.Name] = true
	}
	if len(members) == 0 {
		return errors.New("there must be at least one member")
	}
	return nil
}

func isMember(members []Member, name string) bool {
	return slices.ContainsFunc(members, func(m Member) bool { return m.Name == name })
}

// sameMembers reports whether two lists differ in nothing but their order.
func sameMembers(a, b []Member) bool {
	byName := func(a, b Member) int { return strings.Compare(a.Name, b.Name) }
	return slices.Equal(slices.SortedFunc(slices.Values(a), byName), slices.SortedFunc(slices.Values(b), byName))
}

// remembered is the content of membersFile.
type remembered struct {
	// Began says that this node began the cloud: what it kept while it was alone
	// belongs to the cloud.
	Began   bool     `json:"began"`
	Members []Member `json:"members"`
}

// readMembers returns none if there are none remembered.
func readMembers(dir string) (r remembered, err error) {
	data, err := os.ReadFile(filepath.Join(dir, membersFile))
	if errors.Is(err, os.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err == nil {
		err = checkMembers(r.Members)
	}
	if err != nil {
		return r, fmt.Errorf("cannot read the state's members: %w: %s: %w; restore it from a backup", ErrDamaged, membersFile, err)
	}
	return r, nil
}

func (r remembered) write(dir string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err == nil {
		err = durable.WriteFile(filepath.Join(dir, membersFile), 0o600, data)
	}
	if err != nil {
		return fmt.Errorf("cannot remember the state's members: %w", err)
	}
	return nil
}

// firstMembers are those that the node remembers, else those it was given, else
// itself: then it begins a cloud.
func firstMembers(cfg Config) (remembered, error) {
	r, err := readMembers(cfg.Dir)
	if err != nil || len(r.Members) > 0 {
		return r, err
	}
	r.Members = cfg.Members
	if len(cfg.Members) == 0 {
		r = remembered{Began: true, Members: []Member{{cfg.Node, cfg.ClientListen, cfg.RouteListen}}}
	}
	if err := checkMembers(r.Members); err != nil {
		return r, fmt.Errorf("cannot open catalog: %w", err)
	}
	return r, r.write(cfg.Dir)
}
