package cli

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/perigee-run/perigee/token/caveat"
	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"perigee": func() { os.Exit(Main(os.Args[1:], IO{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})) },
	})
}

// TestScripts runs the command line as its users do, where no node is needed.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("PERIGEE_ADDR", "unix://"+filepath.Join(e.WorkDir, "no.sock"))
			e.Setenv("PERIGEE_LOGIN", filepath.Join(e.WorkDir, "login.json"))
			e.Setenv("NO_COLOR", "1")
			t, err := caveat.New([]byte("a key of some node"), "t1", caveat.Caveat{Name: caveat.Org, Words: []string{"acme"}})
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(e.WorkDir, "token"), []byte(t.String()+"\n"), 0o600)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
	})
}

// exits runs a command and checks its exit code: exits 2 perigee deploy --frob.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if err != nil {
		exit, ok := err.(*exec.ExitError)
		if !ok {
			ts.Fatalf("%v: %v", args[1:], err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("%v: exit code %d, want %d", args[1:], got, want)
	}
}

// TestReference checks that docs/cli is what the commands say of themselves.
func TestReference(t *testing.T) {
	dir := t.TempDir()
	if code := Main([]string{"docs", dir}, IO{Out: os.Stdout, Err: os.Stderr}); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	made, err := filepath.Glob(filepath.Join(dir, "*.md"))
	if err != nil || len(made) < 30 {
		t.Fatalf("%d pages, %v", len(made), err)
	}
	for _, path := range made {
		want, _ := os.ReadFile(path)
		have, _ := os.ReadFile(filepath.Join("../docs/cli", filepath.Base(path)))
		if !bytes.Equal(want, have) {
			t.Errorf("docs/cli/%s is not what the command says; hint: perigee docs docs/cli", filepath.Base(path))
		}
	}
}
