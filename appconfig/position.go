package appconfig

import (
	"bytes"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// positions says where each key stands: offsets in the file by path, such as
// services[0].ports[1].port.
type positions map[string]int

// locate finds the keys of a document that is known to be valid.
func locate(data []byte) positions {
	l := &locator{at: positions{}, arrays: map[string]int{}}
	l.p.Reset(data)
	table := ""
	for l.p.NextExpression() {
		switch e := l.p.Expression(); e.Kind {
		case unstable.Table:
			table = l.walk("", e.Key(), false)
		case unstable.ArrayTable:
			table = l.walk("", e.Key(), true)
		case unstable.KeyValue:
			l.keyValue(table, e)
		}
	}
	return l.at
}

type locator struct {
	p      unstable.Parser
	at     positions
	arrays map[string]int // elements so far of each array of tables
}

// walk notes a dotted key below prefix and returns its path. The last part of an
// [[array]] header opens a new element; parts that name such an array mean its
// last element.
func (l *locator) walk(prefix string, keys unstable.Iterator, array bool) string {
	path := prefix
	for keys.Next() {
		k := keys.Node()
		path = join(path, string(k.Data))
		l.note(path, k)
		switch n, known := l.arrays[path]; {
		case array && keys.IsLast():
			l.arrays[path] = n + 1
			path = index(path, n)
			l.note(path, k)
		case known:
			path = index(path, n-1)
		}
	}
	return path
}

func (l *locator) note(path string, n *unstable.Node) {
	if _, seen := l.at[path]; !seen {
		l.at[path] = int(n.Raw.Offset)
	}
}

func (l *locator) keyValue(prefix string, e *unstable.Node) {
	l.value(l.walk(prefix, e.Key(), false), e.Value())
}

func (l *locator) value(path string, v *unstable.Node) {
	children := v.Children()
	switch v.Kind {
	case unstable.Array:
		for i := 0; children.Next(); {
			c := children.Node()
			if c.Kind == unstable.Comment {
				continue
			}
			if c.Raw.Length > 0 {
				l.note(index(path, i), c)
			}
			l.value(index(path, i), c)
			i++
		}
	case unstable.InlineTable:
		for children.Next() {
			if c := children.Node(); c.Kind == unstable.KeyValue {
				l.keyValue(path, c)
			}
		}
	}
}

// find is the offset of the key, or of the nearest table around it.
func (p positions) find(path string) (int, bool) {
	for path != "" {
		if at, ok := p[path]; ok {
			return at, true
		}
		path = parent(path)
	}
	return 0, false
}

func lineColumn(data []byte, offset int) (line, column int) {
	before := data[:min(offset, len(data))]
	return bytes.Count(before, []byte("\n")) + 1, len(before) - bytes.LastIndexByte(before, '\n')
}

func join(path, key string) string {
	if !bare(key) {
		key = quote(key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

func index(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

// parent drops the last part of a path. A quoted part may hold dots: what is left
// then is no path of the file, and its own parent is tried next.
func parent(path string) string {
	return path[:max(strings.LastIndexAny(path, ".["), 0)]
}

func bare(key string) bool {
	for i := range len(key) {
		if c := key[i]; (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return key != ""
}
