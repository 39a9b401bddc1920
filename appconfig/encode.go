package appconfig

import (
	"bytes"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/perigee-run/perigee/api"
)

// TOML writes the configuration in its canonical form: the newest form of every
// key, in a fixed order, defaults left out. Parse reads it to the same Config.
// It returns an error for text that is not UTF-8, which TOML cannot hold.
func (c *Config) TOML() ([]byte, error) {
	w := &encoder{}
	w.table("", reflect.ValueOf(c).Elem(), 0)
	if !utf8.Valid(w.b.Bytes()) {
		return nil, fmt.Errorf("cannot write configuration: it holds text that is not UTF-8")
	}
	return w.b.Bytes(), nil
}

type encoder struct{ b bytes.Buffer }

// table writes the plain keys first: in TOML they must come before the tables.
func (w *encoder) table(path string, v reflect.Value, depth int) {
	var tables []field
	for _, f := range fields(v.Type()) {
		fv := v.FieldByIndex(f.index)
		switch {
		case absent(fv):
		case isTable(fv):
			tables = append(tables, f)
		default:
			w.line(depth, f.key, literal(fv))
		}
	}
	for _, f := range tables {
		w.tables(join(path, f.key), v.FieldByIndex(f.index), depth)
	}
}

func (w *encoder) tables(path string, v reflect.Value, depth int) {
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	inner := depth + 1
	switch v.Kind() {
	case reflect.Struct:
		w.header(depth, "["+path+"]")
		w.table(path, v, inner)
	case reflect.Slice:
		for i := range v.Len() {
			w.header(depth, "[["+path+"]]")
			w.table(path, v.Index(i), inner)
		}
	case reflect.Map:
		w.mapping(path, v, depth)
	}
}

// mapping writes a table of values, or of tables.
func (w *encoder) mapping(path string, v reflect.Value, depth int) {
	keys := slices.Sorted(maps.Keys(stringKeys(v)))
	if k := v.Type().Elem().Kind(); k != reflect.Pointer {
		w.header(depth, "["+path+"]")
	}
	for _, k := range keys {
		item := v.MapIndex(reflect.ValueOf(k).Convert(v.Type().Key()))
		if item.Kind() == reflect.Pointer {
			w.tables(join(path, k), item, depth)
		} else {
			w.line(depth+1, k, literal(item))
		}
	}
}

func stringKeys(v reflect.Value) map[string]bool {
	out := map[string]bool{}
	for _, k := range v.MapKeys() {
		out[k.String()] = true
	}
	return out
}

func (w *encoder) header(depth int, text string) {
	if w.b.Len() > 0 {
		w.b.WriteByte('\n')
	}
	w.b.WriteString(strings.Repeat("  ", depth) + text + "\n")
}

func (w *encoder) line(depth int, key, value string) {
	w.b.WriteString(strings.Repeat("  ", depth) + join("", key) + " = " + value + "\n")
}

// absent values are the defaults. A pointer that is set is not, whatever it
// points to; nor is a table that is there and empty, if it means something.
func absent(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Slice, reflect.Map:
		return v.Len() == 0
	}
	if r, ok := v.Interface().(Regions); ok {
		return r.IsZero()
	}
	return v.IsZero()
}

func isTable(v reflect.Value) bool {
	t := v.Type()
	if _, ok := v.Interface().(Regions); ok {
		return false
	}
	if t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.Struct:
		return true
	case reflect.Map:
		return v.Kind() == reflect.Map // a list of free tables is written inline
	}
	return false
}

func literal(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case api.Duration:
		return quote(durationText(x))
	case Memory:
		return quote(x.String())
	case Regions:
		return x.literal()
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		return literal(v.Elem())
	case reflect.String:
		return quote(v.String())
	case reflect.Bool:
		return strconv.FormatBool(v.Bool())
	case reflect.Int, reflect.Int64:
		return strconv.FormatInt(v.Int(), 10)
	case reflect.Float64:
		return floatText(v.Float())
	case reflect.Slice:
		return list(v)
	case reflect.Map:
		return inline(v)
	}
	return `""`
}

// durationText is Go's text without the zeros at its end: 10m, not 10m0s.
func durationText(d api.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func floatText(f float64) string {
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

func list(v reflect.Value) string {
	items := make([]string, v.Len())
	for i := range items {
		items[i] = literal(v.Index(i))
	}
	return "[" + strings.Join(items, ", ") + "]"
}

func inline(v reflect.Value) string {
	var items []string
	for _, k := range slices.Sorted(maps.Keys(stringKeys(v))) {
		items = append(items, join("", k)+" = "+literal(v.MapIndex(reflect.ValueOf(k))))
	}
	if len(items) == 0 {
		return "{}"
	}
	return "{ " + strings.Join(items, ", ") + " }"
}

// quote writes a basic string.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c == '\n':
			b.WriteString(`\n`)
		case c == '\t':
			b.WriteString(`\t`)
		case c < ' ' || c == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, c)
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}
