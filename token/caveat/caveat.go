// Package caveat is the text of tokens: how a token is written down, and the
// grammar of the limits in it. It needs no server and no key, so that whoever has
// a token can look into it and make a narrower one of it.
//
// It does not decide: what a limit means for a call is package token's.
//
// A limit is one line, a name and a value, and all lines of a token hold together:
//
//	org acme                            calls about this org
//	apps shop,api                       about these apps
//	machines 3d8d9014b32789             about these machines
//	actions reads,changes               calls of these classes
//	commands [["date"],["psql","..."]]  run these programs with these arguments; "..." is any more
//	not-before 2026-01-31T10:00:00Z
//	expires 2026-01-31T11:00:00Z
//
// A line that is not in the grammar is refused by the server, never ignored. The
// place for the next limit is [names], with its meaning in package token.
package caveat

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/perigee-run/perigee/api"
)

// The names of limits.
const (
	Org       = "org"
	Apps      = "apps"
	Machines  = "machines"
	Actions   = "actions"
	Commands  = "commands"
	NotBefore = "not-before"
	Expires   = "expires"
)

var names = []string{Org, Apps, Machines, Actions, Commands, NotBefore, Expires}

// Any, as the last argument of a command, stands for all that may follow.
const Any = "..."

const (
	maxText  = 4 << 10 // bytes of one limit
	maxWords = 128
)

// Caveat is one limit. Which field it uses, its name says.
type Caveat struct {
	Name     string
	Words    []string   // of org, apps, machines and actions
	Commands [][]string // of commands
	Time     time.Time  // of not-before and expires
}

var word = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)

// String is the limit's line.
func (c Caveat) String() string {
	switch c.Name {
	case Commands:
		b, _ := json.Marshal(c.Commands) // texts always can be written
		return c.Name + " " + string(b)
	case NotBefore, Expires:
		return c.Name + " " + c.Time.UTC().Format(time.RFC3339)
	}
	return c.Name + " " + strings.Join(c.Words, ",")
}

// Parse reads one line, as String writes it.
func Parse(line string) (Caveat, error) {
	c, err := parse(line)
	if err == nil && c.String() != line {
		err = fmt.Errorf("it would be written %q", api.Clip(c.String()))
	}
	if err != nil {
		return Caveat{}, fmt.Errorf("cannot read the limit %q: %w", api.Clip(line), err)
	}
	return c, nil
}

func parse(line string) (c Caveat, err error) {
	name, value, ok := strings.Cut(line, " ")
	if !ok || len(line) > maxText {
		return c, fmt.Errorf("it is not a name and a value of at most %d bytes", maxText)
	}
	c.Name = name
	switch name {
	case Org, Apps, Machines, Actions:
		c.Words = strings.Split(value, ",")
	case Commands:
		err = json.Unmarshal([]byte(value), &c.Commands)
	case NotBefore, Expires:
		c.Time, err = time.Parse(time.RFC3339, value)
	default:
		return c, fmt.Errorf("there is no limit of that name; there are %s", strings.Join(names, ", "))
	}
	if err != nil {
		return c, err
	}
	return c, c.check()
}

// check finds values that no token may have.
func (c Caveat) check() error {
	if n := len(c.Words); n > maxWords || c.Name == Org && n != 1 {
		return fmt.Errorf("it has %d values", n)
	}
	for _, w := range c.Words {
		if !word.MatchString(w) {
			return fmt.Errorf("%q is not a name of small letters, digits and hyphens", api.Clip(w))
		}
	}
	if c.Name != Commands {
		return nil
	}
	if len(c.Commands) == 0 || len(c.Commands) > maxWords {
		return fmt.Errorf("it has %d commands", len(c.Commands))
	}
	for _, args := range c.Commands {
		if len(args) == 0 || args[0] == "" || args[0] == Any {
			return fmt.Errorf("one of the commands has no program")
		}
	}
	return nil
}

// Allows reports whether a command is among those of the limit.
func (c Caveat) Allows(command []string) bool {
	return slices.ContainsFunc(c.Commands, func(args []string) bool {
		if n := len(args) - 1; args[n] == Any {
			return len(command) >= n && slices.Equal(command[:n], args[:n])
		}
		return slices.Equal(command, args)
	})
}
