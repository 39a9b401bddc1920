package appconfig

import (
	"reflect"
	"strings"
	"sync"
)

// suggest says what an unknown key may have meant: a key of the same table that
// is spelled nearly so, or the table where such a key belongs.
func (d *decoder) suggest(t reflect.Type, key string) string {
	best, distance := "", 1+max(1, len(key)/3)
	for _, f := range fields(t) {
		if n := edits(strings.ToLower(key), f.key); n < distance {
			best, distance = f.key, n
		}
	}
	if best != "" {
		return "; did you mean " + best + "?"
	}
	if tables := homes()[key]; len(tables) > 0 {
		return "; it belongs in " + strings.Join(tables, " or ")
	}
	return ""
}

// homes is the tables in which each key is known.
var homes = sync.OnceValue(func() map[string][]string {
	out := map[string][]string{}
	gather(out, "", reflect.TypeFor[Config](), false)
	return out
})

func gather(out map[string][]string, path string, t reflect.Type, array bool) {
	header := "the top of the file"
	if path != "" {
		header = "[" + path + "]"
		if array {
			header = "[" + header + "]"
		}
	}
	for _, f := range fields(t) {
		out[f.key] = append(out[f.key], header)
		inner, isArray := t.FieldByIndex(f.index).Type, false
		for inner.Kind() == reflect.Pointer || inner.Kind() == reflect.Slice {
			isArray = isArray || inner.Kind() == reflect.Slice
			inner = inner.Elem()
		}
		if inner.Kind() == reflect.Struct {
			gather(out, join(path, f.key), inner, isArray)
		}
	}
}

// edits is the number of characters to insert, remove, change or swap between a
// and b.
func edits(a, b string) int {
	before, last := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		now := make([]int, len(b)+1)
		now[0] = i + 1
		for j := range len(b) {
			change := 1
			if a[i] == b[j] {
				change = 0
			}
			now[j+1] = min(last[j]+change, last[j+1]+1, now[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				now[j+1] = min(now[j+1], before[j-1]+1)
			}
		}
		before, last = last, now
	}
	return last[len(b)]
}
