//go:build linux

package lab

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestMain also is the program that TestKilledLab kills.
func TestMain(m *testing.M) {
	if dir := os.Getenv("LAB_TEST_VICTIM"); dir != "" {
		victim(dir)
		return
	}
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// daemonMark is an argument that nothing else on the machine has.
const daemonMark = "86322.25"

func victim(dir string) {
	l, err := New(context.Background(), Config{Cities: []string{"iad", "fra"}, Dir: dir, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		fmt.Println(err)
		return
	}
	h, err := l.AddHost("a", "iad")
	if err == nil {
		err = h.Command(context.Background(), "sh", "-c", "setsid sleep "+daemonMark+" >/dev/null 2>&1 &").Run()
	}
	fmt.Println("up", err)
	select {}
}

func TestKilledLab(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to make namespaces")
	}
	dir := filepath.Join(t.TempDir(), "l")
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "LAB_TEST_VICTIM="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	if line != "up <nil>\n" {
		t.Fatal(line)
	}
	if free, err := Sweep(dir, false); free || err != nil {
		t.Errorf("swept a running lab: %v", err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	for began := time.Now(); len(running("sleep\x00"+daemonMark)) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > 5*time.Second {
			t.Fatal("a process survived the lab")
		}
	}
	l := newLabWith(t, Config{Cities: []string{"iad"}, Dir: dir})
	addHost(t, l, "a", "iad")
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if free, err := Sweep(dir, false); !free || err != nil {
		t.Errorf("cannot sweep: %v", err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("files are left")
	}
}

func TestNothingIsLeft(t *testing.T) {
	l := newLab(t, "iad", "fra")
	h := addHost(t, l, "a", "iad")
	var spaces []string
	for _, h := range l.hosts {
		spaces = append(spaces, netns(h.Pid()))
	}
	if err := h.Command(t.Context(), "sh", "-c", "setsid sleep 86322.5 >/dev/null 2>&1 &").Run(); err != nil {
		t.Fatal(err)
	}
	threads := func() int { d, _ := os.ReadDir("/proc/self/task"); return len(d) }
	before := threads()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if len(running("sleep\x0086322.5")) > 0 {
		t.Error("a process is left")
	}
	time.Sleep(50 * time.Millisecond)
	if after := threads(); after > before-3 {
		t.Logf("%d threads before, %d after", before, after)
	}
	left, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range left {
		pid, _ := strconv.Atoi(filepath.Base(p))
		for _, s := range spaces {
			if ns := netns(pid); ns == s {
				b, _ := os.ReadFile(p + "/cmdline")
				t.Errorf("process %d is left in %s: %q", pid, s, b)
			}
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	if strings.Contains(string(mounts), l.cfg.Dir) {
		t.Error("a mount is left")
	}
}

// running lists processes whose command line contains what.
func running(what string) []int {
	var out []int
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range all {
		if b, _ := os.ReadFile(f); strings.Contains(string(b), what) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
			out = append(out, pid)
		}
	}
	return out
}

func netns(pid int) string {
	s, _ := os.Readlink("/proc/" + strconv.Itoa(pid) + "/ns/net")
	return s
}
