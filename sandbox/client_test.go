package sandbox_test

import (
	"strings"
	"testing"

	"github.com/perigee-run/perigee/sandbox"
)

func TestStartAndExit(t *testing.T) {
	k := newKit(t)
	for _, test := range []struct {
		name   string
		script string
		says   string
		exit   sandbox.Exit
	}{
		{"success", "echo out; echo err >&2; exit 0", "out\nerr\n", sandbox.Exit{}},
		{"code", "exit 7", "", sandbox.Exit{Code: 7}},
		{"code of a signal's size", "exit 137", "", sandbox.Exit{Code: 137}},
		{"signal", "kill -TERM $$", "", sandbox.Exit{Code: 143, Signal: 15}},
		{"environment", "echo $NAME; id -u; ls /", "value\n0\nbin\ndev\netc\nhome\nproc\nrun\nsys\ntmp\nvar\nwww\n", sandbox.Exit{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := k.spec("sh", "-c", test.script)
			says, exit := k.run(s)
			exit.At = test.exit.At
			if says != test.says || exit != test.exit {
				t.Errorf("said %q, exit %+v; want %q, %+v", says, exit, test.says, test.exit)
			}
		})
	}
}

func TestServe(t *testing.T) {
	k := newKit(t)
	w := newNetwork(t)
	s := k.spec("httpd", "-f", "-p", "8080", "-h", "/www")
	s.Netns = w.path
	k.start(s)
	if page := w.get(t, 8080); !strings.Contains(page, "200 OK") {
		t.Errorf("page: %q", page)
	}
}
