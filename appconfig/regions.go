package appconfig

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Regions is where the app is to run: a list of regions, or how many machines
// each region gets, for all process groups or for single ones.
//
//	regions = ["iad", "fra"]
//	regions = { iad = 2, fra = 1 }
//	regions = { iad = 2, fra = 1, worker = { iad = 1 } }
type Regions struct {
	// List is the first form.
	List []string
	// Counts are machines by region, by process group; "" stands for the groups
	// that are not named.
	Counts map[string]map[string]int
}

// maxInRegion is how many machines a process group may have in one region.
const maxInRegion = 1000

// IsZero reports whether no region is named.
func (r Regions) IsZero() bool { return len(r.List) == 0 && len(r.Counts) == 0 }

// Names are the regions that get machines, in the order of the file, or by name.
func (r Regions) Names() []string {
	if len(r.List) > 0 {
		return slices.Clone(r.List)
	}
	in := map[string]bool{}
	for _, regions := range r.Counts {
		for code, n := range regions {
			in[code] = in[code] || n > 0
		}
	}
	maps.DeleteFunc(in, func(_ string, some bool) bool { return !some })
	return slices.Sorted(maps.Keys(in))
}

// Spread is how many machines each process group gets in each region; nil if the
// file leaves the numbers open.
func (c *Config) Spread() map[string]map[string]int {
	if len(c.Regions.Counts) == 0 {
		return nil
	}
	out := map[string]map[string]int{}
	for _, g := range c.Groups() {
		counts, own := c.Regions.Counts[g]
		if !own {
			counts = c.Regions.Counts[""]
		}
		if len(counts) > 0 {
			out[g] = maps.Clone(counts)
		}
	}
	return out
}

func (r *Regions) decode(d *decoder, p place, v any) {
	switch v := v.(type) {
	case []any:
		r.list(d, p, v)
	case map[string]any:
		r.counts(d, p, v)
	default:
		d.wrongType(p, v, `a list such as ["iad", "fra"], or a table of counts such as { iad = 2, fra = 1 }`)
	}
}

func (r *Regions) list(d *decoder, p place, v []any) {
	for i, item := range v {
		code, ok := item.(string)
		if !ok {
			d.wrongType(p.item(i), item, "a region such as \"iad\"")
		}
		r.List = append(r.List, code)
	}
}

func (r *Regions) counts(d *decoder, p place, v map[string]any) {
	r.Counts = map[string]map[string]int{}
	for _, key := range slices.Sorted(maps.Keys(v)) {
		at := p.child(key, key)
		d.remember(at)
		group, isGroup := v[key].(map[string]any)
		if isGroup && key == "" {
			d.fail(at, "is a table without the name of a process group")
			continue
		}
		if !isGroup {
			r.count(d, at, "", key, v[key])
			continue
		}
		if r.Counts[key] == nil {
			r.Counts[key] = map[string]int{}
		}
		for _, code := range slices.Sorted(maps.Keys(group)) {
			d.remember(at.child(code, code))
			r.count(d, at.child(code, code), key, code, group[code])
		}
	}
}

func (r *Regions) count(d *decoder, p place, group, code string, v any) {
	n, ok := d.integer(p, v, field{})
	if !ok {
		return
	}
	if r.Counts[group] == nil {
		r.Counts[group] = map[string]int{}
	}
	r.Counts[group][code] = int(n)
}

// literal is the configuration's text: always in one line.
func (r Regions) literal() string {
	if len(r.Counts) == 0 {
		return quotedList(r.List)
	}
	items := countItems(r.Counts[""])
	for _, g := range slices.Sorted(maps.Keys(r.Counts)) {
		if g != "" {
			items = append(items, join("", g)+" = "+braces(countItems(r.Counts[g])))
		}
	}
	return braces(items)
}

func countItems(counts map[string]int) []string {
	var out []string
	for _, code := range slices.Sorted(maps.Keys(counts)) {
		out = append(out, fmt.Sprintf("%s = %d", join("", code), counts[code]))
	}
	return out
}

func braces(items []string) string {
	if len(items) == 0 {
		return "{}"
	}
	return "{ " + strings.Join(items, ", ") + " }"
}

func quotedList(words []string) string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = quote(w)
	}
	return "[" + strings.Join(out, ", ") + "]"
}

// MarshalJSON writes the form of the file.
func (r Regions) MarshalJSON() ([]byte, error) {
	if len(r.Counts) == 0 {
		return json.Marshal(r.List)
	}
	out := map[string]any{}
	for g, counts := range r.Counts {
		if g != "" {
			out[g] = counts
		}
	}
	for code, n := range r.Counts[""] {
		out[code] = n
	}
	return json.Marshal(out)
}

// UnmarshalJSON reads what MarshalJSON writes.
func (r *Regions) UnmarshalJSON(b []byte) error {
	*r = Regions{}
	if err := json.Unmarshal(b, &r.List); err == nil {
		return nil
	}
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(b, &raw); err != nil {
		return fmt.Errorf("cannot read regions: neither a list nor a table: %w", err)
	}
	r.Counts = map[string]map[string]int{}
	for key, v := range raw {
		if err := r.unmarshal(key, v); err != nil {
			return fmt.Errorf("cannot read regions.%s: %w", key, err)
		}
	}
	return nil
}

func (r *Regions) unmarshal(key string, v json.RawMessage) error {
	var n int
	if json.Unmarshal(v, &n) == nil {
		if r.Counts[""] == nil {
			r.Counts[""] = map[string]int{}
		}
		r.Counts[""][key] = n
		return nil
	}
	counts := map[string]int{}
	err := json.Unmarshal(v, &counts)
	r.Counts[key] = counts
	return err
}

// regions checks where the app is to run.
func (c check) regions() {
	r := c.cfg.Regions
	for i, code := range r.List {
		key := index("regions", i)
		c.region(key, code)
		if slices.Index(r.List, code) < i {
			c.errorf(key, "region %q is there twice", code)
		}
		if code == "" {
			c.errorf(key, "is empty")
		}
	}
	groups := c.cfg.Groups()
	for _, g := range slices.Sorted(maps.Keys(r.Counts)) {
		key := join("regions", g)
		if g == "" {
			key = "regions"
		} else if !slices.Contains(groups, g) {
			c.errorf(key, "there is no process group %s; there is %s", show(g), strings.Join(groups, ", "))
			continue
		}
		c.regionCounts(key, g, r.Counts[g])
	}
	if primary := c.cfg.PrimaryRegion; primary != "" && !r.IsZero() && !r.mentions(primary) {
		c.errorf("primary_region", "%q is not one of regions; add it there", primary)
	}
}

func (c check) regionCounts(key, group string, counts map[string]int) {
	if group != "" && len(counts) == 0 {
		c.errorf(key, "is empty; name regions and how many machines each gets, such as { iad = 1 }")
	}
	for _, code := range slices.Sorted(maps.Keys(counts)) {
		at := join(key, code)
		if code == "" {
			c.errorf(at, "is empty")
		}
		c.region(at, code)
		if group == "" && slices.Contains(c.cfg.Groups(), code) {
			c.errorf(at, "is a process group, not a region; write %s = { iad = %d }", code, counts[code])
		}
		if n := counts[code]; n < 0 || n > maxInRegion {
			c.errorf(at, "is %d; it can be 0 to %d machines", n, maxInRegion)
		}
	}
}

// mentions reports whether the file has a word about the region.
func (r Regions) mentions(code string) bool {
	for _, counts := range r.Counts {
		if _, ok := counts[code]; ok {
			return true
		}
	}
	return slices.Contains(r.List, code)
}
