package audit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/catalog"
)

func open(t *testing.T, dir string) (*Log, *catalog.Catalog) {
	t.Helper()
	cat, err := catalog.Open(t.Context(), catalog.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cat.Close() })
	l, err := New(t.Context(), Config{JetStream: cat.JetStream(), Node: "n1"})
	if err != nil {
		t.Fatal(err)
	}
	return l, cat
}

func read(t *testing.T, l *Log, org string, q api.AuditQuery) string {
	t.Helper()
	all, err := l.Read(t.Context(), org, q)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range all {
		out = append(out, e.Operation)
	}
	return strings.Join(out, " ")
}

// FuzzPart: whatever an org or an app is called, an entry has a subject of three words,
// and a filter finds no other org's.
func FuzzPart(f *testing.F) {
	for _, s := range []string{"acme", "", "*", ">", "a.b", "A", "a b", "-a", "a-", "\x00", strings.Repeat("a", 99), "_"} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, org, app string) {
		subject := "audit." + part(org) + "." + part(app)
		if words := strings.Split(subject, "."); len(words) != 3 || strings.ContainsAny(subject, " *>\t\r\n\x00") || len(subject) > 140 {
			t.Errorf("the subject is %q", subject)
		}
		for _, s := range []string{org, app} {
			if got := anyOr(s); got != s && got != nobody && (got != "*" || s != "") {
				t.Errorf("%q is looked for as %q", s, got)
			}
		}
	})
}

func TestEntries(t *testing.T) {
	dir := t.TempDir()
	l, cat := open(t, dir)
	for i, e := range []api.AuditEntry{{Org: "acme", App: "shop"}, {Org: "acme", App: "api"}, {Org: "bold", App: "far"}, {}, {Org: "acme"}, {Org: "a.b>*", App: strings.Repeat("x", 500)}} {
		e.Operation, e.Time = fmt.Sprint("op", i), time.Unix(int64(1000+i), 0)
		l.Record(e)
	}
	cat.Close()
	l, _ = open(t, dir) // what was recorded is on disk
	for _, tt := range []struct {
		org, want string
		q         api.AuditQuery
	}{
		{"acme", "op4 op1 op0", api.AuditQuery{}}, {"acme", "op1", api.AuditQuery{App: "api"}}, {"acme", "op4", api.AuditQuery{Limit: 1}},
		{"bold", "op2", api.AuditQuery{}}, {"", "op5 op4 op3 op2 op1 op0", api.AuditQuery{}}, {"none", "", api.AuditQuery{}},
		{"", "", api.AuditQuery{Since: time.Now().Add(time.Hour)}}, {">", "op5 op3", api.AuditQuery{}},
	} {
		if got := read(t, l, tt.org, tt.q); got != tt.want {
			t.Errorf("%q %+v: %q, want %q", tt.org, tt.q, got, tt.want)
		}
	}
}

// TestRefusedAreBounded: a flood fills no disk, and the next entry tells of it.
func TestRefusedAreBounded(t *testing.T) {
	l, _ := open(t, t.TempDir())
	for range 4 * burst {
		l.Record(api.AuditEntry{Operation: "x", Status: 401})
	}
	l.Record(api.AuditEntry{Operation: "stolen", Status: 403, Who: "token:x"}) // is not lost in the noise
	if got := read(t, l, "", api.AuditQuery{Limit: 1}); got != "stolen" {
		t.Errorf("the newest entry is %s", got)
	}
	for range 2 * burst {
		l.Record(api.AuditEntry{Operation: "x", Status: 401})
	}
	l.Record(api.AuditEntry{Operation: "done", Status: 200})
	all, err := l.Read(t.Context(), "", api.AuditQuery{Limit: 1000})
	if err != nil || len(all) < burst || len(all) > 2*burst || all[0].Operation != "done" || all[0].Skipped == 0 {
		t.Errorf("%d entries, %+v, %v", len(all), all[0], err)
	}
}

// TestFullDisk: a call does not fail for it, and the daemon's log says what.
func TestFullDisk(t *testing.T) {
	_, cat := open(t, t.TempDir())
	var said strings.Builder
	l, err := New(context.Background(), Config{JetStream: cat.JetStream(), Node: "n1", Room: func() error { return errors.New("the disk is full") }, Logger: slog.New(slog.NewTextHandler(&said, nil))})
	if err != nil {
		t.Fatal(err)
	}
	l.Record(api.AuditEntry{Operation: "Apps_create"})
	if !strings.Contains(said.String(), "Apps_create") {
		t.Error(said.String())
	}
}

// TestOrgsShare: an org that makes calls in a loop, in one app or in many, pushes out
// its own entries and no other org's.
func TestOrgsShare(t *testing.T) {
	_, cat := open(t, t.TempDir())
	const perOrg = 40
	l, err := New(t.Context(), Config{JetStream: cat.JetStream(), Node: "n1", PerOrg: perOrg})
	if err != nil {
		t.Fatal(err)
	}
	l.Record(api.AuditEntry{Org: "quiet", App: "wiki", Operation: "first"})
	l.Record(api.AuditEntry{Org: "quiet", App: "wiki", Operation: "refused", Status: 403, Who: "token:x"})
	for i := range 4 * perOrg {
		l.Record(api.AuditEntry{Org: "loud", App: fmt.Sprint("app", i%8), Operation: fmt.Sprint("op", i), Status: 200 + i%2*203})
	}
	q := api.AuditQuery{Limit: 1000}
	if got := read(t, l, "quiet", q); got != "refused first" {
		t.Errorf("the quiet org has %q", got)
	}
	all := strings.Fields(read(t, l, "loud", q))
	if most := (perOrg + perOrg/10) * (trims + 1) / trims; len(all) > most || len(all) < perOrg || all[0] != fmt.Sprint("op", 4*perOrg-1) {
		t.Errorf("the loud org has %d entries, the newest %s; want at most %d", len(all), all[0], most)
	}
}
