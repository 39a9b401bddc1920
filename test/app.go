package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/perigee-run/perigee/internal/debian"
)

var testapp struct {
	once sync.Once
	bin  []byte
	err  error
}

// AppProgram is the program test/testapp, static.
func AppProgram(t testing.TB) []byte {
	t.Helper()
	testapp.once.Do(func() { testapp.bin, testapp.err = buildApp() })
	if testapp.err != nil {
		t.Fatal(testapp.err)
	}
	return testapp.bin
}

func buildApp() ([]byte, error) {
	dir, err := os.MkdirTemp("", "testapp")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	cmd := exec.Command("go", "build", "-o", filepath.Join(dir, "testapp"), "github.com/perigee-run/perigee/test/testapp")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	return os.ReadFile(filepath.Join(dir, "testapp"))
}

// App is an image of it, as an archive.
func App(t testing.TB) string {
	t.Helper()
	return archive(t, "testapp:1", debian.Recipe{
		Files:  map[string][]byte{"/testapp": AppProgram(t)},
		Config: v1.Config{Entrypoint: []string{"/testapp"}, WorkingDir: "/"},
	})
}

// Tiny is an image of busybox, as an archive.
func Tiny(t testing.TB) string {
	t.Helper()
	r, err := debian.Tiny()
	if err != nil {
		t.Skipf("needs busybox-static: %v", err)
	}
	return archive(t, "tiny:test", r)
}

// Checks is the part of a configuration that has its health looked at each second.
const Checks = `
  [[http_service.checks]]
    path = "/healthy"
    interval = "1s"
    timeout = "1s"
    grace_period = "2s"
`

// archive makes a real image of Debian packages, or skips.
func archive(t testing.TB, ref string, r debian.Recipe) string {
	t.Helper()
	if len(r.Packages) > 0 {
		if err := debian.Available(); err != nil {
			t.Skip(err)
		}
	}
	path, err := debian.Archive(t.TempDir(), ref, r)
	if err != nil {
		t.Fatal(err)
	}
	return path
}
