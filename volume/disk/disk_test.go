package disk

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// size of the tests' disks: small, to be quick.
const size = 64 << 20

// testDisk makes a disk and removes it when the test ends.
func testDisk(t *testing.T) (*Disk, Key) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: volumes are mounted")
	}
	if err := Check(); err != nil {
		t.Skipf("%v; scripts/deps.sh run installs it", err)
	}
	d, key := At(filepath.Join(t.TempDir(), "vol_1")), NewKey()
	if err := d.Create(t.Context(), size, key); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Remove(); err != nil {
			t.Error(err)
		}
	})
	return d, key
}

func mount(t *testing.T, d *Disk, key Key) {
	t.Helper()
	if err := d.Mount(t.Context(), key); err != nil {
		t.Fatal(err)
	}
}

func unmount(t *testing.T, d *Disk) {
	t.Helper()
	if err := d.Unmount(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// put writes a file durably.
func put(t *testing.T, d *Disk, name, text string) {
	t.Helper()
	f, err := os.Create(filepath.Join(d.Data(), name))
	if err == nil {
		_, err = f.WriteString(text)
	}
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

func has(t *testing.T, d *Disk, name, want string) {
	t.Helper()
	if b, err := os.ReadFile(filepath.Join(d.Data(), name)); err != nil || string(b) != want {
		t.Errorf("%s: %.20q, %v; want %.20q", name, b, err, want)
	}
}

func TestWhatIsWrittenIsEncryptedAndStays(t *testing.T) {
	d, key := testDisk(t)
	if d.Mounted() {
		t.Error("it is mounted before anybody asks")
	}
	mount(t, d, key)
	mount(t, d, key) // again is no error
	secret := strings.Repeat("a very well known sentence. ", 300)
	put(t, d, "the-name-of-a-secret", secret)
	unmount(t, d)
	if loop, err := loopOf(d.Image()); loop != nil || err != nil {
		t.Errorf("a loop device is left: %v, %v", loop, err)
	}
	raw, err := os.ReadFile(d.Image())
	if err != nil || bytes.Contains(raw, []byte("well known sentence")) || bytes.Contains(raw, []byte("name-of-a-secret")) {
		t.Errorf("what was written can be read in the image (%v)", err)
	}
	mount(t, d, key)
	has(t, d, "the-name-of-a-secret", secret)
	unmount(t, d)
	mount(t, d, NewKey())
	if _, err := os.ReadFile(filepath.Join(d.Data(), "the-name-of-a-secret")); err == nil {
		t.Error("another key reads it")
	}
}

func TestSizeIsEnforced(t *testing.T) {
	d, key := testDisk(t)
	mount(t, d, key)
	err := os.WriteFile(filepath.Join(d.Data(), "big"), make([]byte, size+1), 0o600)
	if !errors.Is(err, unix.ENOSPC) {
		t.Errorf("more than fits: %v", err)
	}
	if u, ok := d.Usage(); !ok || u.Available != 0 || u.Blocks*u.BlockSize > size || u.Blocks*u.BlockSize < size*8/10 {
		t.Errorf("usage %+v", u)
	}
}

func TestGrow(t *testing.T) {
	d, key := testDisk(t)
	mount(t, d, key)
	put(t, d, "f", "kept")
	err := d.Grow(t.Context(), 2*size)
	if err != nil && !errors.Is(err, ErrMounted) {
		t.Fatal(err)
	}
	online := err == nil
	if online != GrowsMounted() {
		t.Errorf("with CAP_SYS_RESOURCE: %v; to grow while it is mounted: %v", GrowsMounted(), err)
	}
	u, _ := d.Usage()
	if has := u.Blocks * u.BlockSize; online && has < size*3/2 {
		t.Errorf("it grew to %d bytes while it was mounted", has)
	}
	unmount(t, d)
	for range 2 { // the second time there is nothing to do
		if err := d.Grow(t.Context(), 2*size); err != nil {
			t.Fatal(err)
		}
	}
	mount(t, d, key)
	if u, _ = d.Usage(); u.Blocks*u.BlockSize < size*3/2 {
		t.Errorf("after it grew: %+v", u)
	}
	has(t, d, "f", "kept")
	unmount(t, d)
	if err := d.Grow(t.Context(), size); err != nil {
		t.Fatal(err)
	}
	if n, _ := d.Size(); n != 2*size {
		t.Errorf("it shrank to %d", n)
	}
	t.Logf("grows while mounted: %v", online)
}

func TestCopyOfAMountedDisk(t *testing.T) {
	d, key := testDisk(t)
	mount(t, d, key)
	put(t, d, "f", "as it was")
	to := filepath.Join(t.TempDir(), "copy")
	if err := d.Copy(t.Context(), to); err != nil {
		t.Fatal(err)
	}
	put(t, d, "f", "as it is") // the writers go on
	twin := At(filepath.Join(t.TempDir(), "vol_2"))
	if err := twin.CreateFrom(t.Context(), to, 2*size); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { twin.Remove() })
	mount(t, twin, key)
	has(t, twin, "f", "as it was")
	if u, _ := twin.Usage(); u.Blocks*u.BlockSize < size*3/2 {
		t.Errorf("it did not grow: %+v", u)
	}
	if a := twin.Allocated(); a > size/2 {
		t.Errorf("the copy takes %d bytes: its holes are filled", a)
	}
}

func TestWhatACrashLeaves(t *testing.T) {
	d, key := testDisk(t)
	mount(t, d, key)
	f, err := os.Open(d.mnt())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := ioctl(f, freezeFS, nil); err != nil {
		t.Fatal(err)
	}
	if !d.Thaw() || d.Thaw() {
		t.Error("a held disk is let go of once")
	}
	put(t, d, "f", "x")
	// A process that still has a file open holds the mount.
	open, err := os.Open(filepath.Join(d.Data(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	soon, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.Unmount(soon); err == nil || !d.Mounted() {
		t.Errorf("a disk in use was unmounted: %v", err)
	}
	open.Close()
	if err := os.Mkdir(d.dir+".new", 0o700); err != nil { // of a creation that was cut off
		t.Fatal(err)
	}
	two := At(d.dir)
	mount(t, two, key)
	has(t, two, "f", "x")
}

// debug changes a file system that is not mounted behind its back.
func debug(t *testing.T, d *Disk, request string) {
	t.Helper()
	path, err := find("debugfs")
	if err != nil {
		t.Skipf("needs debugfs, of e2fsprogs; scripts/deps.sh test installs it: %v", err)
	}
	if out, err := exec.Command(path, "-w", "-R", request, d.Image()).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// TestFaultyFileSystem: one that is marked as faulty is mended before it is mounted,
// or is not mounted.
func TestFaultyFileSystem(t *testing.T) {
	d, key := testDisk(t)
	mount(t, d, key)
	put(t, d, "f", "kept")
	unmount(t, d)
	debug(t, d, "ssv state 2")
	mount(t, d, key)
	unmount(t, d)
	if sb, err := d.settled(); err != nil || !sb.clean() {
		t.Errorf("it was mounted as it was: %v", err)
	}
	debug(t, d, "sif data block[0] 1") // the folder's block is the file system's own
	debug(t, d, "ssv state 2")
	if err := d.Mount(t.Context(), key); !errors.Is(err, ErrDamaged) || d.Mounted() {
		t.Errorf("beyond what a tool may mend: %v", err)
	}
	if err := d.Grow(t.Context(), 2*size); !errors.Is(err, ErrDamaged) {
		t.Errorf("it grows: %v", err)
	}
}

// TestToolIsNotKilled when the daemon ends, and what comes next waits for it.
func TestToolIsNotKilled(t *testing.T) {
	bin, image := t.TempDir(), filepath.Join(t.TempDir(), "image")
	mark := filepath.Join(bin, "done")
	script := "#!/bin/sh\nsleep 0.3\necho said\n: > " + mark + "\n"
	if err := errors.Join(os.WriteFile(filepath.Join(bin, "a-tool"), []byte(script), 0o755), os.WriteFile(image, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := run(ctx, image, "a-tool"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("it is waited for: %v", err)
	}
	lock, err := lockImage(image)
	if err != nil {
		t.Fatal(err)
	}
	lock.Close()
	if _, err := os.Stat(mark); err != nil {
		t.Errorf("it did not come to its end: %v", err)
	}
}

func TestCreateFails(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	d := At(filepath.Join(t.TempDir(), "vol_1"))
	if err := d.Create(t.Context(), 4096, NewKey()); err == nil || d.Exists() {
		t.Errorf("a disk of one block: %v", err)
	}
	if left, _ := filepath.Glob(d.dir + "*"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if err := d.Remove(); err != nil {
		t.Error(err)
	}
}

// TestUnmountReachesOthers: a process that has copied the mounts holds no disk.
func TestUnmountReachesOthers(t *testing.T) {
	if os.Geteuid() != 0 || Check() != nil {
		t.Skip("needs root and e2fsprogs")
	}
	dir := t.TempDir()
	for range 2 {
		if err := Share(dir); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := Unshare(dir); err != nil {
			t.Error(err)
		}
	})
	d, key := At(filepath.Join(dir, "vol_1")), NewKey()
	if err := d.Create(t.Context(), size, key); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Remove() })
	mount(t, d, key)
	other := exec.Command("sleep", "60")
	other.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.Process.Kill(); other.Wait() })
	unmount(t, d)
	if err := d.Grow(t.Context(), 2*size); err != nil {
		t.Errorf("another process holds the disk: %v", err)
	}
}
