// Package docs_test holds the documents to the code: what they show must load,
// and what the code knows must be in them.
package docs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/appconfig"
)

var block = regexp.MustCompile("(?ms)^```toml\n(.*?)^```")

// TestTOMLBlocksLoad reads every configuration that a document shows.
func TestTOMLBlocksLoad(t *testing.T) {
	pages, err := filepath.Glob("*.md")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, page := range append(pages, "../README.md") {
		text := read(t, page)
		for _, at := range block.FindAllStringSubmatchIndex(text, -1) {
			found++
			name := fmt.Sprintf("%s:%d", page, 1+strings.Count(text[:at[2]], "\n"))
			if _, _, err := appconfig.Parse(name, []byte(text[at[2]:at[3]])); err != nil {
				t.Errorf("the block at %s does not load:\n%v", name, err)
			}
		}
	}
	if found == 0 {
		t.Error("no document shows a configuration; is the pattern still right?")
	}
}

// TestConfigurationHasEveryKey looks for each key of a configuration in the
// section of its table, and for the words of the warning that it gives.
func TestConfigurationHasEveryKey(t *testing.T) {
	page := sections(read(t, "configuration.md"))
	for _, k := range keys("", reflect.TypeFor[appconfig.Config]()) {
		rows, ok := page[k.table]
		if !ok {
			t.Errorf("configuration.md has no section for %q", k.table)
			continue
		}
		row, ok := rows[k.name]
		switch {
		case !ok:
			t.Errorf("configuration.md has no row for key %q in the section of %q", k.name, k.table)
		case !strings.Contains(row, k.later):
			t.Errorf("configuration.md, key %q of %q: the row lacks the words of its warning: %s", k.name, k.table, k.later)
		}
	}
}

// TestAPIHasEveryCode looks for each error code with its status.
func TestAPIHasEveryCode(t *testing.T) {
	page := read(t, "api.md")
	for code, status := range api.Codes {
		if row := fmt.Sprintf("| `%s` | %d |", code, status); !strings.Contains(page, row) {
			t.Errorf("api.md has no row %s", row)
		}
	}
}

var (
	route   = regexp.MustCompile(`\{r(Get|Post|Put|Patch|Delete), ([^,]+), (?:reads|changes|execs|shells|owns|operates|known|open), "`)
	base    = regexp.MustCompile(`(?m)^(?:const)?\s*(p[A-Z]\w*)\s+= (.+)$`)
	segment = regexp.MustCompile(`\{[a-z_]+\}`)
)

// TestAPIHasEveryEndpoint looks for a row for each row of the API's own tables. What a
// segment is called does not matter.
func TestAPIHasEveryEndpoint(t *testing.T) {
	files, err := filepath.Glob("../httpapi/*.go")
	if err != nil {
		t.Fatal(err)
	}
	bases, source := map[string]string{}, ""
	for _, f := range files {
		if !strings.HasSuffix(f, "_test.go") {
			source += read(t, f)
		}
	}
	for _, m := range base.FindAllStringSubmatch(source, -1) {
		bases[m[1]] = m[2]
	}
	rows := strings.Split(segment.ReplaceAllString(read(t, "api.md"), "{}"), "\n")
	found := route.FindAllStringSubmatch(source, -1)
	for _, m := range found {
		method, path := "`"+strings.ToUpper(m[1])+"`", pathOf(m[2], bases)
		if !slices.ContainsFunc(rows, func(row string) bool {
			return strings.HasPrefix(row, "| `") && strings.Contains(row, method) && strings.Contains(row, "`"+segment.ReplaceAllString(path, "{}")+"`")
		}) {
			t.Errorf("api.md has no row of %s and `%s`", method, path)
		}
	}
	if len(found) < 120 {
		t.Errorf("%d endpoints found; is the pattern still right?", len(found))
	}
}

// pathOf is what a sum of constants and texts amounts to.
func pathOf(sum string, bases map[string]string) string {
	path := ""
	for _, part := range strings.Split(sum, " + ") {
		if b, ok := bases[part]; ok {
			path += pathOf(b, bases)
		} else {
			path += strings.Trim(part, `"`)
		}
	}
	return path
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// key is one key of a table ("" is the top of the file), and its warning.
type key struct{ table, name, later string }

// keys walks the structs that appconfig reads, by the tags it reads them by.
func keys(table string, of reflect.Type) []key {
	var out []key
	for _, f := range reflect.VisibleFields(of) {
		name, _, _ := strings.Cut(f.Tag.Get("toml"), ",")
		if name == "" {
			continue
		}
		out = append(out, key{table, name, f.Tag.Get("later")})
		inner, below := f.Type, strings.TrimPrefix(table+"."+name, ".")
		if inner.Kind() == reflect.Map {
			inner, below = inner.Elem(), below+".NAME"
		}
		for inner.Kind() == reflect.Pointer || inner.Kind() == reflect.Slice {
			inner = inner.Elem()
		}
		if inner.Kind() == reflect.Struct && below != sameAsVM {
			out = append(out, keys(below, inner)...)
		}
	}
	return out
}

// sameAsVM has the keys of [[vm]]; the page refers to those.
const sameAsVM = "deploy.release_command_vm"

// contents are the rows of each section's tables by their first cell; a section
// stands for the tables that its heading names.
type contents map[string]map[string]string

var (
	named = regexp.MustCompile("`\\[+([^\\]]+)\\]+`")
	first = regexp.MustCompile("^\\| `([^`]+)` \\|")
)

func sections(text string) contents {
	page, rows := contents{}, map[string]string{}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "#") {
			rows = map[string]string{}
			for _, m := range named.FindAllStringSubmatch(line, -1) {
				page[m[1]] = rows
			}
			if strings.HasPrefix(line, "## Top of the file") {
				page[""] = rows
			}
		}
		if m := first.FindStringSubmatch(line); m != nil && rows[m[1]] == "" {
			rows[m[1]] = line
		}
	}
	return page
}
