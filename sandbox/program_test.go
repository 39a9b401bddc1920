package sandbox_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pkg/sftp"

	"github.com/perigee-run/perigee/sandbox"
)

// bare is a machine of an image with one program that only sleeps: no shell, no
// libraries, no users, no directories.
func (k *kit) bare() sandbox.Spec {
	k.t.Helper()
	s := k.spec("/sleep", "1000")
	s.Rootfs, s.Env = bareImage(k.t), nil
	return s
}

// files is a connection to the machine's SFTP server; end ends it.
func (k *kit) files(ctx context.Context, id string, spec sandbox.ExecSpec) (c *sftp.Client, end func() (int, error)) {
	k.t.Helper()
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	var code int
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		var said bytes.Buffer
		spec.Program = sandbox.ProgramSFTP
		code, err = k.Exec(ctx, id, spec, sandbox.Streams{Stdin: inR, Stdout: outW, Stderr: &said})
		outW.CloseWithError(errors.Join(io.EOF, err))
		inR.CloseWithError(io.ErrClosedPipe)
		if said.Len() > 0 {
			k.t.Logf("the server said: %s", said.String())
		}
	}()
	c, cerr := sftp.NewClientPipe(outR, inW)
	if cerr != nil {
		k.t.Fatal(cerr)
	}
	return c, func() (int, error) { inW.Close(); <-done; c.Close(); return code, err }
}

// TestFilesWithoutUserland moves files in and out of a machine that has nothing
// to do it with.
func TestFilesWithoutUserland(t *testing.T) {
	k := newKit(t)
	s := k.bare()
	k.start(s)
	began := time.Now()
	c, end := k.files(t.Context(), s.ID, sandbox.ExecSpec{})
	t.Logf("first answer after %s", time.Since(began))
	data := make([]byte, 5<<20)
	_, _ = rand.Read(data)
	must(t, c.Mkdir("/data"))
	f, err := c.Create("/data/a")
	must(t, err)
	_, err = f.ReadFrom(bytes.NewReader(data))
	must(t, errors.Join(err, f.Chmod(0o640), f.Close()))
	must(t, c.Rename("/data/a", "/data/b"))
	must(t, c.Symlink("b", "/data/link"))
	f, err = c.Open("/data/link")
	must(t, err)
	back, err := io.ReadAll(f)
	must(t, errors.Join(err, f.Close()))
	if !bytes.Equal(back, data) {
		t.Errorf("%d bytes came back, not the %d that were sent", len(back), len(data))
	}
	if wd, err := c.Getwd(); wd != "/" || err != nil {
		t.Errorf("begins at %q, %v", wd, err)
	}
	if l, err := c.ReadDir("/data"); err != nil || len(l) != 2 || l[0].Mode().Perm() != 0o640 && l[1].Mode().Perm() != 0o640 {
		t.Errorf("listed %v, %v", l, err)
	}
	if _, err := c.Stat(built.program); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the host's files are in the machine: %v", err)
	}
	if code, err := end(); code != 0 || err != nil {
		t.Errorf("ended with %d, %v", code, err)
	}
}

// TestFilesOfAUser: the server has the rights of its user, and begins at home.
func TestFilesOfAUser(t *testing.T) {
	k := newKit(t)
	s := k.spec("sleep", "1000")
	k.start(s)
	c, end := k.files(t.Context(), s.ID, sandbox.ExecSpec{User: true, UID: 1000, GID: 1000, Env: []string{"HOME=/home/app"}})
	if wd, err := c.Getwd(); wd != "/home/app" || err != nil {
		t.Errorf("begins at %q, %v", wd, err)
	}
	f, err := c.Create("own")
	must(t, err)
	must(t, f.Close())
	if st, err := c.Stat("own"); err != nil || st.Sys().(*sftp.FileStat).UID != 1000 {
		t.Errorf("made %v, %v", st, err)
	}
	if _, err := c.Create("/etc/x"); !errors.Is(err, os.ErrPermission) {
		t.Errorf("a file of root's could be made: %v", err)
	}
	if code, err := end(); code != 0 || err != nil {
		t.Errorf("ended with %d, %v", code, err)
	}
}

// TestFilesAndSnapshots: a machine with a server at work can be saved, running
// or paused, also by a supervisor that did not begin the server; the server is
// gone then. In the restored machine another runs.
func TestFilesAndSnapshots(t *testing.T) {
	k := newKit(t)
	s := k.bare()
	must(t, k.Prepare(t.Context(), "pool", ""))
	must(t, k.Start(t.Context(), s, "pool"))
	dir := filepath.Join(k.dir, "snap")
	for _, test := range []struct {
		name   string
		before func()
	}{
		{"running", func() {}},
		{"paused", func() { must(t, k.Pause(t.Context(), s.ID)) }},
		{"found", func() {
			k.killSupervisor()
			_, err := k.List(t.Context())
			must(t, err)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, end := k.files(t.Context(), s.ID, sandbox.ExecSpec{})
			must(t, c.Mkdir("/"+test.name))
			test.before()
			must(t, k.Checkpoint(t.Context(), s.ID, dir))
			must(t, k.Resume(t.Context(), s.ID))
			if code, err := end(); code == 0 && err == nil {
				t.Error("the server ended well")
			}
			k.onlyMain(s.ID)
		})
	}
	must(t, k.Destroy(t.Context(), s.ID))
	s.ID += "r"
	must(t, k.Restore(t.Context(), s, "", dir))
	c, end := k.files(t.Context(), s.ID, sandbox.ExecSpec{})
	for _, dir := range []string{"/running", "/paused", "/found"} {
		if _, err := c.Stat(dir); err != nil {
			t.Error(err)
		}
	}
	if code, err := end(); code != 0 || err != nil {
		t.Errorf("ended with %d, %v", code, err)
	}
}

// TestFalseName: a program that calls itself as ours are called is not taken for one,
// neither the main process nor what it forks.
func TestFalseName(t *testing.T) {
	k := newKit(t)
	s := k.spec("/bin/sh", "-c", "cp /bin/busybox '/host:[7]'; (exec -a sleep '/host:[7]' 100) & exec -a sleep '/host:[7]' 101")
	k.start(s)
	c, end := k.files(t.Context(), s.ID, sandbox.ExecSpec{})
	for named := 0; named < 2; {
		p, err := k.Processes(t.Context(), s.ID)
		must(t, err)
		named = 0
		for _, p := range p {
			if strings.HasPrefix(p.Command, "host:[7]") {
				named++
			}
		}
	}
	must(t, c.Mkdir("/here"))
	must(t, k.Checkpoint(t.Context(), s.ID, filepath.Join(k.dir, "snap")))
	must(t, k.Resume(t.Context(), s.ID))
	_, _ = end()
	p, err := k.Processes(t.Context(), s.ID)
	must(t, err)
	if len(p) != 2 {
		t.Errorf("there are %+v", p)
	}
}

// onlyMain checks that nothing but the main process runs.
func (k *kit) onlyMain(id string) {
	k.t.Helper()
	p, err := k.Processes(k.t.Context(), id)
	must(k.t, err)
	if len(p) != 1 {
		k.t.Errorf("there are %+v", p)
	}
}

// TestOnlyOurPrograms: nothing but what the supervisor knows can be named.
func TestOnlyOurPrograms(t *testing.T) {
	k := newKit(t)
	s := k.bare()
	k.start(s)
	for _, p := range []sandbox.Program{"/bin/sh", "/proc/self/exe", "serve", "../sftp"} {
		if _, err := k.Exec(t.Context(), s.ID, sandbox.ExecSpec{Program: p}, sandbox.Streams{}); !errors.Is(err, sandbox.ErrInvalid) {
			t.Errorf("program %q: %v", p, err)
		}
	}
	var said bytes.Buffer
	code, err := k.Exec(t.Context(), s.ID, sandbox.ExecSpec{Program: sandbox.ProgramSFTP, Args: []string{"-x"}}, sandbox.Streams{Stderr: &said})
	if code != 1 || err != nil || said.Len() == 0 {
		t.Errorf("arguments: %d, %v, %q", code, err, said.String())
	}
}
