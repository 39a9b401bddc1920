package appconfig

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/perigee-run/perigee/api"
)

// decoder fills a Config from a document and gathers what it finds wrong.
type decoder struct {
	name     string
	data     []byte
	at       positions
	source   map[string]string // path in the Config → path in the file, where they differ
	errors   []finding
	warnings []finding
}

type finding struct {
	offset int
	Problem
}

// place is where a value belongs and where it was found. They differ where an
// older form of the file was read.
type place struct{ key, src string }

func (p place) child(key, src string) place { return place{join(p.key, key), join(p.src, src)} }
func (p place) item(i int) place            { return place{index(p.key, i), index(p.src, i)} }

// custom is a type that reads older forms by itself.
type custom interface {
	decode(d *decoder, p place, v any)
}

func (d *decoder) parse() (*Config, bool) {
	var doc map[string]any
	if err := toml.Unmarshal(d.data, &doc); err != nil {
		d.syntax(err)
		return nil, false
	}
	d.at, d.source = locate(d.data), map[string]string{}
	cfg := &Config{}
	d.table(place{}, doc, reflect.ValueOf(cfg).Elem())
	return cfg, true
}

func (d *decoder) syntax(err error) {
	p := Problem{File: d.name, Text: strings.TrimPrefix(err.Error(), "toml: ")}
	if de := (*toml.DecodeError)(nil); errors.As(err, &de) {
		p.Line, p.Column = de.Position()
		p.Key = strings.Join(de.Key(), ".")
	}
	d.errors = append(d.errors, finding{0, p})
}

// fail notes an error. Only the first about a key counts: what is found after it
// is most often a consequence.
func (d *decoder) fail(p place, format string, a ...any) {
	if slices.ContainsFunc(d.errors, func(f finding) bool { return f.Key == p.src && p.src != "" }) {
		return
	}
	d.errors = append(d.errors, d.finding(p, fmt.Sprintf(format, a...)))
}

func (d *decoder) warn(p place, format string, a ...any) {
	d.warnings = append(d.warnings, d.finding(p, fmt.Sprintf(format, a...)))
}

func (d *decoder) finding(p place, text string) finding {
	f := finding{-1, Problem{File: d.name, Key: p.src, Text: text}}
	if at, ok := d.at.find(p.src); ok {
		f.offset = at
		f.Line, f.Column = lineColumn(d.data, at)
	}
	return f
}

// placeOf leads from a path in the Config back to the file.
func (d *decoder) placeOf(key string) place {
	rest := ""
	for k := key; k != ""; {
		if src, ok := d.source[k]; ok {
			return place{key, src + rest}
		}
		up := parent(k)
		rest, k = k[len(up):]+rest, up
	}
	return place{key, key}
}

func (d *decoder) remember(p place) {
	if p.key != p.src {
		d.source[p.key] = p.src
	}
}

func inFileOrder(fs []finding) []Problem {
	slices.SortStableFunc(fs, func(a, b finding) int { return cmp.Compare(a.offset, b.offset) })
	var out []Problem
	for _, f := range fs {
		out = append(out, f.Problem)
	}
	return out
}

// field is one key of a struct.
type field struct {
	key, later string
	options    []string
	aliases    []string
	index      []int
}

func (f field) has(option string) bool { return slices.Contains(f.options, option) }

// fields are the keys of a struct type, in the order they are written.
func fields(t reflect.Type) []field {
	var out []field
	for _, sf := range reflect.VisibleFields(t) {
		key, options, _ := strings.Cut(sf.Tag.Get("toml"), ",")
		if key == "" {
			continue
		}
		f := field{key: key, later: sf.Tag.Get("later"), index: sf.Index, options: strings.Split(options, ",")}
		if a := sf.Tag.Get("alias"); a != "" {
			f.aliases = strings.Split(a, ",")
		}
		out = append(out, f)
	}
	return out
}

func (d *decoder) table(p place, v any, out reflect.Value) {
	m, ok := v.(map[string]any)
	if !ok {
		d.wrongType(p, v, "a table")
		return
	}
	known := map[string]field{}
	for _, f := range fields(out.Type()) {
		known[f.key] = f
		for _, a := range f.aliases {
			known[a] = f
		}
	}
	seen := map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(m)) {
		f, ok := known[key]
		at := p.child(f.key, key)
		if !ok {
			d.fail(p.child(key, key), "unknown key%s", d.suggest(out.Type(), key))
			continue
		}
		if other, twice := seen[f.key]; twice {
			d.fail(at, "is the same as %s, which is there too; keep one of them", other)
			continue
		}
		seen[f.key] = key
		d.field(at, m[key], out.FieldByIndex(f.index), f)
	}
}

func (d *decoder) field(p place, v any, out reflect.Value, f field) {
	d.remember(p)
	if v == nil {
		return
	}
	d.value(p, v, out, f)
	if f.later != "" && !emptyValue(out) {
		d.warn(p, "accepted, but not acted on: %s", f.later)
	}
}

// emptyValue: what asks for nothing needs no warning.
func emptyValue(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Slice, reflect.Map:
		return v.Len() == 0
	case reflect.Pointer:
		return v.IsNil() || v.Elem().IsZero()
	}
	return v.IsZero()
}

func (d *decoder) value(p place, v any, out reflect.Value, f field) {
	switch t := out.Addr().Interface().(type) {
	case custom:
		t.decode(d, p, v)
		return
	case *api.Duration:
		d.duration(p, v, t, f)
		return
	case *api.Autostop:
		d.autostop(p, v, t)
		return
	}
	switch out.Kind() {
	case reflect.Pointer:
		out.Set(reflect.New(out.Type().Elem()))
		d.value(p, v, out.Elem(), f)
	case reflect.Struct:
		d.table(p, v, out)
	case reflect.Slice:
		d.slice(p, v, out, f)
	case reflect.Map:
		d.mapping(p, v, out, f)
	case reflect.Interface:
		d.free(p, v, out)
	default:
		d.scalar(p, v, out, f)
	}
}

func (d *decoder) scalar(p place, v any, out reflect.Value, f field) {
	switch out.Kind() {
	case reflect.String:
		if s, ok := d.text(p, v, f); ok {
			out.SetString(s)
		}
	case reflect.Bool:
		if b, ok := v.(bool); ok {
			out.SetBool(b)
		} else {
			d.wrongType(p, v, "true or false")
		}
	case reflect.Int:
		if n, ok := d.integer(p, v, f); ok {
			out.SetInt(n)
		}
	case reflect.Float64:
		d.float(p, v, out)
	}
}

func (d *decoder) text(p place, v any, f field) (string, bool) {
	if s, ok := v.(string); ok {
		return s, true
	}
	if f.has("text") {
		if s, ok := scalarText(v); ok {
			return s, true
		}
	}
	d.wrongType(p, v, "a string")
	return "", false
}

// scalarText writes a number or a boolean where a string is meant.
func scalarText(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case int64:
		return strconv.FormatInt(v, 10), true
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64), true
	case bool:
		return strconv.FormatBool(v), true
	}
	return "", false
}

func (d *decoder) integer(p place, v any, f field) (int64, bool) {
	n, ok := v.(int64)
	if s, isText := v.(string); isText && f.has("text") {
		var err error
		n, err = strconv.ParseInt(s, 10, 32)
		ok = err == nil
	}
	if !ok {
		d.wrongType(p, v, "a whole number")
		return 0, false
	}
	if n < math.MinInt32 || n > math.MaxInt32 {
		d.fail(p, "%d is out of range", n)
		return 0, false
	}
	return n, true
}

func (d *decoder) float(p place, v any, out reflect.Value) {
	switch n := v.(type) {
	case float64:
		if math.IsNaN(n) || math.IsInf(n, 0) {
			d.fail(p, "must be a number")
			return
		}
		out.SetFloat(n)
	case int64:
		out.SetFloat(float64(n))
	default:
		d.wrongType(p, v, "a number")
	}
}

// slice reads a list. A table alone stands for a list of one, as older files have it.
func (d *decoder) slice(p place, v any, out reflect.Value, f field) {
	list, ok := v.([]any)
	elem := out.Type().Elem()
	one := place{index(p.key, 0), p.src}
	_, isTable := v.(map[string]any)
	_, isText := v.(string)
	switch {
	case ok:
	case isTable && (elem.Kind() == reflect.Struct || elem.Kind() == reflect.Map), isText && f.has("one"):
		s := reflect.MakeSlice(out.Type(), 1, 1)
		d.remember(one)
		d.value(one, v, s.Index(0), f)
		out.Set(s)
		return
	default:
		d.wrongType(p, v, "a list")
		return
	}
	s := reflect.MakeSlice(out.Type(), len(list), len(list))
	for i, item := range list {
		d.remember(p.item(i))
		d.value(p.item(i), item, s.Index(i), f)
	}
	if len(list) > 0 {
		out.Set(s)
	}
}

func (d *decoder) mapping(p place, v any, out reflect.Value, f field) {
	m, ok := v.(map[string]any)
	if !ok {
		d.wrongType(p, v, "a table")
		return
	}
	if len(m) == 0 {
		return
	}
	out.Set(reflect.MakeMap(out.Type()))
	for _, key := range slices.Sorted(maps.Keys(m)) {
		val := reflect.New(out.Type().Elem()).Elem()
		d.value(p.child(key, key), m[key], val, f)
		out.SetMapIndex(reflect.ValueOf(key), val)
	}
}

// free keeps a value that we only pass on. Dates have no place in it.
func (d *decoder) free(p place, v any, out reflect.Value) {
	ok := true
	switch v := v.(type) {
	case string, int64, bool:
	case float64:
		ok = !math.IsNaN(v) && !math.IsInf(v, 0)
	case []any:
		for i, item := range v {
			d.free(p.item(i), item, reflect.New(out.Type()).Elem())
		}
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			d.free(p.child(key, key), v[key], reflect.New(out.Type()).Elem())
		}
	default:
		ok = false
	}
	if !ok {
		d.wrongType(p, v, "a string, a number, true or false, a list or a table")
		return
	}
	out.Set(reflect.ValueOf(v))
}

func (d *decoder) duration(p place, v any, out *api.Duration, f field) {
	unit := time.Second
	if f.has("ms") {
		unit = time.Millisecond
	}
	switch v := v.(type) {
	case int64:
		if v > int64(maxDuration/unit) || v < -int64(maxDuration/unit) {
			d.fail(p, "%d is too long", v)
			return
		}
		*out = api.Duration(time.Duration(v) * unit)
	case string:
		t, err := time.ParseDuration(v)
		if err != nil {
			d.fail(p, "%q is not a time; write a number with a unit, such as 10s or 1m30s", v)
			return
		}
		*out = api.Duration(t)
	default:
		d.wrongType(p, v, "a time such as \"10s\"")
	}
}

const maxDuration = 10 * 365 * 24 * time.Hour

func (d *decoder) autostop(p place, v any, out *api.Autostop) {
	switch v {
	case false, "off":
		*out = api.AutostopOff
	case true, "stop":
		*out = api.AutostopStop
	case "suspend":
		*out = api.AutostopSuspend
	default:
		d.fail(p, "is %s; it can be \"off\", \"stop\", \"suspend\", true or false", show(v))
	}
}

func (d *decoder) wrongType(p place, v any, want string) {
	d.fail(p, "is %s; it must be %s", describe(v), want)
}

func describe(v any) string {
	switch v.(type) {
	case string:
		return "the string " + show(v)
	case int64, float64:
		return "the number " + show(v)
	case bool:
		return show(v)
	case []any:
		return "a list"
	case map[string]any:
		return "a table"
	}
	return "a date or a time of day"
}

func show(v any) string {
	text := fmt.Sprint(v)
	if s, ok := v.(string); ok {
		text = strconv.Quote(s)
	}
	if len(text) > 60 {
		text = strings.ToValidUTF8(text[:60], "") + "…"
	}
	return text
}
