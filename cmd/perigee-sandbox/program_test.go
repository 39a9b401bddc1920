package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/sentry/platform"
	"gvisor.dev/gvisor/runsc/boot/filter"
	"gvisor.dev/gvisor/runsc/boot/filter/config"

	"github.com/perigee-run/perigee/sandbox"
)

// TestSeccompIsPrecompiled fails when another gVisor names its programs in
// another way: starts would still work, but slowly. Run go generate.
func TestSeccompIsPrecompiled(t *testing.T) {
	if registerSeccomp == nil {
		t.Skip("no programs were generated for this architecture")
	}
	usePrecompiledSeccomp()
	systrap, err := platform.Lookup("systrap")
	if err != nil {
		t.Fatal(err)
	}
	for _, info := range systrap.PrecompiledSeccompInfo() {
		opt := config.Options{Platform: info}
		p, ok := filter.GetPrecompiled(opt.ConfigKey())
		if !ok {
			t.Errorf("no program for %s", opt.ConfigKey())
			continue
		}
		if _, err := p.RenderInstructions(opt.Vars()); err != nil {
			t.Errorf("program for %s: %v", opt.ConfigKey(), err)
		}
	}
}

func TestSplitOCI(t *testing.T) {
	for _, test := range []struct{ line, global, verb, rest string }{
		{"--log x --log-format json run --bundle b --keep id", "--log x --log-format json", "run", "--bundle b id"},
		{"--systemd-cgroup delete id", "", "delete", "id"},
		{"kill --all id KILL", "", "kill", "--all id KILL"},
		{"--version", "--version", "", ""},
	} {
		global, verb, rest := splitOCI(strings.Fields(test.line))
		if strings.Join(global, " ") != test.global || verb != test.verb || strings.Join(rest, " ") != test.rest {
			t.Errorf("%q: %q %q %q", test.line, global, verb, rest)
		}
	}
}

func TestIsReexec(t *testing.T) {
	for _, test := range []struct {
		args string
		want bool
	}{
		{"runsc-sandbox --root=x boot id", true}, {"runsc-gofer gofer", true}, {"/proc/self/exe umount --sync-fd=3 /proc", true},
		{"perigee-sandbox serve", false}, {"perigee-sandbox", false},
	} {
		if got := isReexec(strings.Fields(test.args)); got != test.want {
			t.Errorf("%q: %t", test.args, got)
		}
	}
}

func TestCapabilities(t *testing.T) {
	if c := capabilities(0); !slices.Contains(c.Effective, "CAP_SETUID") || slices.Contains(c.Bounding, "CAP_SYS_ADMIN") {
		t.Errorf("root has %+v", c)
	}
	if c := capabilities(1); len(c.Effective)+len(c.Permitted) > 0 || len(c.Bounding) == 0 {
		t.Errorf("a user has %+v", c)
	}
}

// TestSpecID: what may differ between a saved and a restored machine, and what
// may not.
func TestSpecID(t *testing.T) {
	base := sandbox.Spec{ID: "a", Rootfs: "/r", Args: []string{"x"}, Mounts: []sandbox.Mount{{Source: "/a", Destination: "/d"}}}
	for _, test := range []struct {
		name   string
		change func(*sandbox.Spec)
		same   bool
	}{
		{"id and place", func(s *sandbox.Spec) { s.ID, s.Rootfs, s.Netns, s.Console, s.Hostname = "b", "/q", "n", "c", "h" }, true},
		{"limits", func(s *sandbox.Spec) { s.Resources.MemoryMiB = 5 }, true},
		{"source of a mount", func(s *sandbox.Spec) { s.Mounts = []sandbox.Mount{{Source: "/b", Destination: "/d"}} }, true},
		{"command", func(s *sandbox.Spec) { s.Args = []string{"y"} }, false},
		{"environment", func(s *sandbox.Spec) { s.Env = []string{"A=b"} }, false},
		{"user", func(s *sandbox.Spec) { s.UID = 1 }, false},
		{"place of a mount", func(s *sandbox.Spec) { s.Mounts = []sandbox.Mount{{Source: "/a", Destination: "/e"}} }, false},
	} {
		changed := base
		test.change(&changed)
		if (specID(&base) == specID(&changed)) != test.same {
			t.Errorf("%s: same is not %t", test.name, test.same)
		}
	}
}

func TestHurry(t *testing.T) {
	h := hurry{mark: filepath.Join(t.TempDir(), "mark")}
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	before, err := os.ReadFile(rcuExpedited)
	if err != nil || strings.TrimSpace(string(before)) != "0" {
		t.Skip("needs a host whose rcu_expedited is 0")
	}
	first, second := h.begin(), h.begin()
	first()
	first()
	if _, err := os.Stat(h.mark); err != nil {
		t.Error("off while somebody is in a hurry")
	}
	second()
	if _, err := os.Stat(h.mark); err == nil {
		t.Error("still on")
	}
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"files":{"a":{"size":1,"crc32c":2}}}`))
	f.Add([]byte(`{"files":{"../a":{}}}`))
	f.Add([]byte(`{`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseManifest(b)
		if err != nil {
			return
		}
		for name := range m.Files {
			if filepath.Join("/dir", name) != "/dir/"+name || filepath.Dir(filepath.Join("/dir", name)) != "/dir" {
				t.Errorf("file %q is not in its directory", name)
			}
		}
	})
}

func FuzzExit(f *testing.F) {
	ok, _ := json.Marshal(exitRecord{Status: 7 << 8})
	f.Add(ok)
	f.Add([]byte(`{"status":-1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, exitFile), b, 0o600); err != nil {
			t.Fatal(err)
		}
		x := exitOf(dir, nil, false)
		if x.Unknown && x.Code != -1 {
			t.Errorf("unknown, but code %d", x.Code)
		}
	})
}

func TestExitOf(t *testing.T) {
	write := func(status unix.WaitStatus) string {
		dir := t.TempDir()
		b, _ := json.Marshal(exitRecord{Status: uint32(status)})
		if err := os.WriteFile(filepath.Join(dir, exitFile), b, 0o600); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	for _, test := range []struct {
		name string
		dir  string
		oom  bool
		want sandbox.Exit
	}{
		{"code", write(7 << 8), false, sandbox.Exit{Code: 7}},
		{"signal", write(15), false, sandbox.Exit{Code: 143, Signal: 15}},
		{"killed for memory", write(9), true, sandbox.Exit{Code: 137, Signal: 9, OOM: true}},
		{"a child was killed for memory", write(1 << 8), true, sandbox.Exit{Code: 1}},
		{"the sandbox was killed for memory", t.TempDir(), true, sandbox.Exit{Code: 137, Signal: 9, OOM: true}},
		{"nobody knows", t.TempDir(), false, sandbox.Exit{Code: -1, Unknown: true}},
	} {
		got := exitOf(test.dir, nil, test.oom)
		got.At = test.want.At
		if got != test.want {
			t.Errorf("%s: %+v", test.name, got)
		}
	}
}
