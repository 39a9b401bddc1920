package logs

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/perigee-run/perigee/catalog"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashChildEnv); dir != "" {
		crashChild(dir)
		return
	}
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"))
}

var quiet = slog.New(slog.DiscardHandler)

// node is the part of a daemon that has logs.
type node struct {
	*Store
	*Collector
	cat  *catalog.Catalog
	stop func()
}

func start(t *testing.T, dir string, cfg CollectorConfig) *node {
	t.Helper()
	cat, err := catalog.Open(t.Context(), catalog.Config{Dir: dir, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	n := &node{cat: cat}
	n.Store = New(t.Context(), Config{JetStream: cat.JetStream(), Logger: quiet})
	cfg.Store, cfg.Logger = n.Store, quiet
	if n.Collector, err = NewCollector(cfg); err != nil {
		t.Fatal(err)
	}
	stopped := false
	n.stop = func() {
		if !stopped {
			stopped = true
			n.Collector.Close()
			cat.Close()
		}
	}
	t.Cleanup(n.stop)
	return n
}

func console(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func (n *node) follow(t *testing.T, id, path string) {
	t.Helper()
	if err := n.Follow(Machine{App: "web", Region: "iad", ID: id, Path: path}); err != nil {
		t.Fatal(err)
	}
}

func (n *node) unfollow(t *testing.T, id string) {
	t.Helper()
	if err := n.Unfollow(t.Context(), id); err != nil {
		t.Fatal(err)
	}
}

func (n *node) texts(t *testing.T, q Query) []string {
	t.Helper()
	var out []string
	for l, err := range n.Tail(t.Context(), q) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, l.Text)
	}
	return out
}

const all = 1 << 30

func TestFollowShipsLines(t *testing.T) {
	n, path := start(t, t.TempDir(), CollectorConfig{}), filepath.Join(t.TempDir(), "console")
	out := console(t, path)
	fmt.Fprint(out, "before\n")
	n.follow(t, "m1", path)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var got []string
	for l, err := range n.Tail(ctx, Query{App: "web", Lines: all, Follow: true}) {
		if err != nil {
			t.Fatal(err)
		}
		if l.App != "web" || l.Region != "iad" || l.Machine != "m1" || l.Source != SourceApp || time.Since(l.Time) > time.Minute {
			t.Fatalf("line %+v", l)
		}
		got = append(got, l.Text)
		switch l.Text {
		case "before":
			fmt.Fprint(out, "one\r\n\ntwo \xff\xfe three\npar")
		case "par": // after PartialWait
			fmt.Fprint(out, "\ntial\nend\n")
		}
		if l.Text == "end" {
			break
		}
	}
	want := []string{"before", "one", "", "two \uFFFD three", "par", "tial", "end"}
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Fatalf("got %q, want %q", got, want)
	}
}

func TestUnfollowShipsTheRest(t *testing.T) {
	n, path := start(t, t.TempDir(), CollectorConfig{}), filepath.Join(t.TempDir(), "console")
	out := console(t, path)
	n.follow(t, "m1", path)
	if err := n.Follow(Machine{App: "web", Region: "iad", ID: "m1", Path: path}); err == nil {
		t.Error("followed twice")
	}
	var want []string
	for i := range 20_000 {
		want = append(want, fmt.Sprintf("line %d", i))
	}
	fmt.Fprint(out, strings.Join(want, "\n"))
	n.unfollow(t, "m1")
	n.unfollow(t, "m1")
	if got := n.texts(t, Query{Machine: "m1", Lines: all}); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Fatalf("%d lines, the last %q", len(got), got[len(got)-1])
	}
	fmt.Fprint(out, "\nsecond run\n")
	n.follow(t, "m1", path)
	n.unfollow(t, "m1")
	if got := n.texts(t, Query{Machine: "m1", Lines: 2}); got[0] != want[len(want)-1] || got[1] != "second run" {
		t.Fatalf("after the second run: %q", got)
	}
}

// Test100kLinesAndRestarts writes while the daemon comes and goes: every line
// must be there once and in order.
func Test100kLinesAndRestarts(t *testing.T) {
	const lines = 100_000
	dir, path := t.TempDir(), filepath.Join(t.TempDir(), "console")
	out := console(t, path)
	written := make(chan error, 1)
	go func() {
		for i := 0; i < lines; i += 50 {
			var b strings.Builder
			for j := range 50 {
				fmt.Fprintf(&b, "line %06d %s\n", i+j, strings.Repeat("x", (i+j)%60))
			}
			if _, err := out.WriteString(b.String()); err != nil {
				written <- err
				return
			}
			time.Sleep(500 * time.Microsecond)
		}
		written <- nil
	}()
	for range 4 {
		n := start(t, dir, CollectorConfig{safeAfter: 100 * time.Millisecond})
		n.follow(t, "m1", path)
		time.Sleep(250 * time.Millisecond)
		n.stop()
	}
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	n := start(t, dir, CollectorConfig{safeAfter: 50 * time.Millisecond})
	n.follow(t, "m1", path)
	awaitHole(t, path)
	n.unfollow(t, "m1")
	got := n.texts(t, Query{App: "web", Region: "iad", Machine: "m1", Lines: all})
	if len(got) != lines {
		t.Fatalf("%d lines, want %d", len(got), lines)
	}
	for i, text := range got {
		if !strings.HasPrefix(text, fmt.Sprintf("line %06d ", i)) {
			t.Fatalf("line %d is %q", i, text)
		}
	}
}

// awaitHole waits until the console file takes hardly any disk.
func awaitHole(t *testing.T, path string) {
	t.Helper()
	var st unix.Stat_t
	for range 100 {
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		if st.Blocks*512 < 64<<10 {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("the console file still takes %d bytes of %d", st.Blocks*512, st.Size)
}

// TestSavedPlaceIsBehindTheStream is the crash between an acknowledgement and
// the saving of the place, and the loss of the place altogether.
func TestSavedPlaceIsBehindTheStream(t *testing.T) {
	dir, path := t.TempDir(), filepath.Join(t.TempDir(), "console")
	fmt.Fprint(console(t, path), "a\nb\n")
	n := start(t, dir, CollectorConfig{safeAfter: time.Hour})
	n.follow(t, "m1", path)
	n.unfollow(t, "m1")
	if p := loadPlace(path); p.Offset != 0 {
		t.Fatalf("the place was saved too early: %+v", p)
	}
	fmt.Fprint(console(t, path), "c\n")
	n.follow(t, "m1", path)
	n.unfollow(t, "m1")
	if got := strings.Join(n.texts(t, Query{Lines: all}), ""); got != "abc" {
		t.Fatalf("got %q", got)
	}
	if err := os.WriteFile(placePath(path), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	n.follow(t, "m1", path)
	n.unfollow(t, "m1")
	if got := strings.Join(n.texts(t, Query{Lines: all}), ""); got != "abcabc" {
		t.Fatalf("with the place lost, got %q", got)
	}
}

func TestTruncatedFileStartsOver(t *testing.T) {
	n, path := start(t, t.TempDir(), CollectorConfig{}), filepath.Join(t.TempDir(), "console")
	out := console(t, path)
	fmt.Fprint(out, "first run, first line\n")
	n.follow(t, "m1", path)
	waitFor(t, n, "first run, first line")
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(out, "second\n")
	waitFor(t, n, "second")
	n.unfollow(t, "m1")
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	n.follow(t, "m1", path)
	fmt.Fprint(out, "3\n")
	waitFor(t, n, "3")
}

func waitFor(t *testing.T, n *node, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for l, err := range n.Tail(ctx, Query{Lines: all, Follow: true}) {
		if err != nil {
			t.Fatal(err)
		}
		if l.Text == text {
			return
		}
	}
	t.Fatalf("no line %q", text)
}

// TestBacklogIsBounded has far more in the file than may wait.
func TestBacklogIsBounded(t *testing.T) {
	n, path := start(t, t.TempDir(), CollectorConfig{MaxBacklog: 1 << 20}), filepath.Join(t.TempDir(), "console")
	out := console(t, path)
	for i := range 1000 {
		fmt.Fprintf(out, "%05d %s\n", i, strings.Repeat("y", 4000))
	}
	n.follow(t, "m1", path)
	n.unfollow(t, "m1")
	got := n.texts(t, Query{Lines: all})
	var dropped int
	if c, err := fmt.Sscanf(got[0], "%d bytes of this machine's output were dropped", &dropped); c != 1 {
		t.Fatalf("first line is %.100q: %v", got[0], err)
	}
	kept := 0
	for _, l := range got[1:] {
		kept += len(l) + 1
	}
	if dropped+kept != 1000*4007 || kept < 400_000 || kept > 600_000 {
		t.Fatalf("dropped %d, kept %d", dropped, kept)
	}
	if !strings.HasPrefix(got[len(got)-1], "00999 ") || len(got[1]) != 4006 {
		t.Fatalf("ends with %.10q, starts with a line of %d bytes", got[len(got)-1], len(got[1]))
	}
}

// TestLogStandsStill: while nothing can be stored, disk and memory are bounded;
// afterwards the log says what is missing.
func TestLogStandsStill(t *testing.T) {
	dir, path := t.TempDir(), filepath.Join(t.TempDir(), "console")
	n := start(t, dir, CollectorConfig{MaxBacklog: 256 << 10})
	out := console(t, path)
	n.follow(t, "m1", path)
	fmt.Fprint(out, "shipped\n")
	waitFor(t, n, "shipped")
	n.cat.Close()
	for i := range 100 {
		fmt.Fprintf(out, "%05d %s\n", i, strings.Repeat("z", 9000))
	}
	awaitHoleBelow(t, path, 400<<10)
	n.stop()
	n = start(t, dir, CollectorConfig{MaxBacklog: 256 << 10})
	n.follow(t, "m1", path)
	n.unfollow(t, "m1")
	got := n.texts(t, Query{Lines: all})
	if !strings.Contains(got[1], "were dropped") || !strings.HasPrefix(got[len(got)-1], "00099 ") {
		t.Fatalf("%.60q … %.60q", got[1], got[len(got)-1])
	}
}

func awaitHoleBelow(t *testing.T, path string, most int64) {
	t.Helper()
	var st unix.Stat_t
	for range 200 {
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		if st.Blocks*512 < most {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("the console file takes %d bytes", st.Blocks*512)
}

func TestAppendAndTail(t *testing.T) {
	n := start(t, t.TempDir(), CollectorConfig{})
	for i := range 3000 {
		l := Line{App: fmt.Sprintf("app%d", i%3), Region: "iad", Machine: fmt.Sprintf("m%d", i%6), Text: fmt.Sprint(i)}
		if i < 30 {
			l.App = "rare"
		}
		if err := n.Append(t.Context(), l); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		q    Query
		want string
	}{
		{Query{Lines: 3}, "2997 2998 2999"},
		{Query{App: "app1", Lines: 3}, "2992 2995 2998"},
		{Query{App: "app1", Machine: "m4", Lines: 2}, "2992 2998"},
		{Query{App: "rare", Lines: 2}, "28 29"},
		{Query{App: "rare", Region: "fra", Lines: 2}, ""},
		{Query{App: "none"}, ""},
		{Query{App: "app1", Lines: -1}, ""},
	} {
		if got := strings.Join(n.texts(t, tc.q), " "); got != tc.want {
			t.Errorf("%+v: got %q, want %q", tc.q, got, tc.want)
		}
	}
	if got := n.texts(t, Query{App: "app2"}); len(got) != defaultLines {
		t.Errorf("%d lines by default", len(got))
	}
	since := time.Now()
	if err := n.Append(t.Context(), Line{App: "rare", Region: "iad", Machine: "m1", Text: "two\nlines\n"}); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(n.texts(t, Query{Since: since}), " "); got != "two lines" {
		t.Errorf("since: %q", got)
	}
	if err := n.Forget(t.Context(), "rare"); err != nil {
		t.Fatal(err)
	}
	if got := n.texts(t, Query{App: "rare"}); len(got) != 0 {
		t.Errorf("forgotten: %q", got)
	}
	for _, l := range []Line{{App: "a.b", Region: "x", Machine: "m"}, {App: "a", Region: "*", Machine: "m"}, {App: "a", Region: "x"}} {
		if n.Append(t.Context(), l) == nil {
			t.Errorf("%+v was taken", l)
		}
	}
	for _, err := range n.Tail(t.Context(), Query{App: ">"}) {
		if err == nil {
			t.Error("a wildcard was taken for an app")
		}
	}
}
