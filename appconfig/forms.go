package appconfig

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Env is [env]. A list of tables and values that are no strings are older forms.
type Env map[string]string

func (e *Env) decode(d *decoder, p place, v any) {
	if *e == nil {
		*e = Env{}
	}
	switch v := v.(type) {
	case []any:
		for i, item := range v {
			e.decode(d, place{p.key, index(p.src, i)}, item)
		}
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			at := p.child(key, key)
			d.remember(at)
			if s, ok := scalarText(v[key]); ok {
				(*e)[key] = s
			} else {
				d.wrongType(at, v[key], "a string")
			}
		}
	default:
		d.wrongType(p, v, "a table")
	}
}

// Processes is [processes]: the command of each process group. A list of tables
// with name and command is the older form.
type Processes map[string]string

func (g *Processes) decode(d *decoder, p place, v any) {
	*g = Processes{}
	switch v := v.(type) {
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(v)) {
			g.add(d, p.child(name, name), name, v[name])
		}
	case []any:
		for i, item := range v {
			src := index(p.src, i)
			m, ok := item.(map[string]any)
			name, named := m["name"].(string)
			if !ok || !named || len(m) > 2 || len(m) == 2 && m["command"] == nil {
				d.fail(place{src: src}, "must be a table with name and command, no more")
				continue
			}
			command := m["command"]
			if command == nil {
				command = ""
			}
			g.add(d, place{join(p.key, name), src}, name, command)
		}
	default:
		d.wrongType(p, v, "a table")
	}
}

func (g *Processes) add(d *decoder, p place, name string, v any) {
	d.remember(p)
	command, ok := v.(string)
	if !ok {
		d.wrongType(p, v, "a command in a string")
		return
	}
	if _, twice := (*g)[name]; twice {
		d.fail(p, "process group %q is there twice", name)
	}
	(*g)[name] = command
}

// Checks is [checks]. A list of tables that have a name is the older form.
type Checks map[string]*NamedCheck

func (c *Checks) decode(d *decoder, p place, v any) {
	*c = Checks{}
	switch v := v.(type) {
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(v)) {
			c.add(d, p.child(name, name), name, v[name])
		}
	case []any:
		for i, item := range v {
			src := index(p.src, i)
			m, _ := item.(map[string]any)
			name, ok := m["name"].(string)
			if !ok {
				d.fail(place{src: src}, "must be a table with a name")
				continue
			}
			m = maps.Clone(m)
			delete(m, "name")
			c.add(d, place{join(p.key, name), src}, name, m)
		}
	default:
		d.wrongType(p, v, "a table")
	}
}

func (c *Checks) add(d *decoder, p place, name string, v any) {
	d.remember(p)
	if (*c)[name] != nil {
		d.fail(p, "check %q is there twice", name)
	}
	(*c)[name] = &NamedCheck{}
	d.table(p, v, reflect.ValueOf((*c)[name]).Elem())
}

// Headers are the headers of a check's request. A list of tables with name and
// value is the older form.
type Headers map[string][]string

func (h *Headers) decode(d *decoder, p place, v any) {
	switch v := v.(type) {
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(v)) {
			h.add(d, p.child(name, name), name, v[name])
		}
	case []any:
		for i, item := range v {
			src := index(p.src, i)
			m, _ := item.(map[string]any)
			name, ok := m["name"].(string)
			if !ok {
				d.fail(place{src: src}, "must be a table with name and value")
				continue
			}
			h.add(d, place{join(p.key, name), src}, name, m["value"])
		}
	default:
		d.wrongType(p, v, "a table")
	}
}

func (h *Headers) add(d *decoder, p place, name string, v any) {
	d.remember(p)
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	if v == nil {
		list = []any{""}
	}
	for _, item := range list {
		s, ok := scalarText(item)
		if !ok {
			d.wrongType(p, item, "a string")
			return
		}
		if *h == nil {
			*h = Headers{}
		}
		(*h)[name] = append((*h)[name], s)
	}
}

func (c *Concurrency) decode(d *decoder, p place, v any) {
	s, ok := v.(string)
	if !ok {
		d.table(p, v, reflect.ValueOf(c).Elem())
		return
	}
	soft, hard, ok := strings.Cut(s, ",")
	softLimit, err1 := strconv.ParseInt(strings.TrimSpace(soft), 10, 32)
	hardLimit, err2 := strconv.ParseInt(strings.TrimSpace(hard), 10, 32)
	if !ok || err1 != nil || err2 != nil {
		d.fail(p, "is the string %s; it must be a table with soft_limit and hard_limit", show(s))
		return
	}
	*c = Concurrency{Type: "requests", SoftLimit: int(softLimit), HardLimit: int(hardLimit)}
}

// Memory is an amount of memory in MiB, written "512mb" or "1gb", or as a number.
type Memory int

func (m *Memory) decode(d *decoder, p place, v any) {
	text, ok := scalarText(v)
	if _, isBool := v.(bool); !ok || isBool {
		d.wrongType(p, v, "an amount such as \"512mb\" or \"1gb\"")
		return
	}
	mb, err := parseMemory(text)
	if err != nil {
		d.fail(p, "%v", err)
		return
	}
	*m = Memory(mb)
}

// String is the amount as it is written in a configuration.
func (m Memory) String() string {
	if m >= 1024 && m%1024 == 0 {
		return fmt.Sprintf("%dgb", int(m)/1024)
	}
	return fmt.Sprintf("%dmb", int(m))
}

// MarshalText is String.
func (m Memory) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (m *Memory) UnmarshalText(b []byte) error {
	mb, err := parseMemory(string(b))
	*m = Memory(mb)
	return err
}

func parseMemory(s string) (int, error) {
	number := strings.TrimSpace(strings.ToLower(s))
	factor := 1
	for _, u := range []struct {
		unit   string
		factor int
	}{{"gib", 1024}, {"gb", 1024}, {"g", 1024}, {"mib", 1}, {"mb", 1}, {"m", 1}} {
		if rest, ok := strings.CutSuffix(number, u.unit); ok {
			number, factor = strings.TrimSpace(rest), u.factor
			break
		}
	}
	n, err := strconv.ParseFloat(number, 64)
	if mb := n * float64(factor); err == nil && mb >= 0 && mb <= 1<<24 && mb == float64(int(mb)) {
		return int(mb), nil
	}
	return 0, fmt.Errorf("%s is not an amount of memory; write \"512mb\", \"1gb\" or a number of MiB", show(s))
}
