package machine

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
)

// full uses every part of a configuration that is supported.
const full = `{"image":"app","env":{"A":"1"},"init":{"exec":["sleep"],"user":"node","working_dir":"/srv","tty":true},
"metadata":{"fly_process_group":"web"},"guest":{"cpu_kind":"shared","cpus":1,"memory_mb":256},
"services":[{"protocol":"tcp","internal_port":8080,"autostop":"suspend","autostart":true,"min_machines_running":0,
"ports":[{"port":80,"handlers":["http"],"force_https":true},{"start_port":443,"end_port":444,"handlers":["tls","http"]}],
"checks":[{"type":"http","path":"/","interval":"15s","timeout":"2s","grace_period":"5s"},{"type":"tcp"}],
"concurrency":{"type":"requests","soft_limit":20,"hard_limit":25}}],
"checks":{"up":{"type":"http","path":"/up","headers":[{"name":"Host","values":["x"]}]}},
"restart":{"policy":"on-failure","max_retries":3},"stop_config":{"signal":"SIGTERM","timeout":"10s"},
"rootfs":{"persist":"never"},"files":[{"guest_path":"/etc/x","raw_value":"aGk=","mode":384}],
"statics":[{"guest_path":"/public","url_prefix":"/"}],"dns":{"nameservers":["1.1.1.1"],"hostname":"web"}}`

func TestProbes(t *testing.T) {
	c := new(api.MachineConfig)
	ok(t, json.Unmarshal([]byte(full), c))
	if p := probes(c); len(p) != 3 || p[0].name != "servicecheck-00-http-8080" || p[2].check.Port != 8080 {
		t.Errorf("probes are %+v", p)
	}
}

// FuzzWords: what words are joined to, each in quotes, is taken apart to the same, and
// any line is taken apart or refused.
func FuzzWords(f *testing.F) {
	for _, s := range []string{"", "a b", `a "b c" 'd\'`, `\`, "'", `""`, "a\tb\nc", "\xff\\\xfe", `"a\"b"`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		words, err := Words(line)
		if err != nil {
			return
		}
		var again []string
		for _, w := range words {
			again = append(again, "'"+strings.ReplaceAll(w, "'", `'\''`)+"'")
		}
		got, err := Words(strings.Join(again, " "))
		if err != nil || !slices.Equal(got, words) {
			t.Errorf("%q is %q, and that %q, %v", line, words, got, err)
		}
	})
}

// FuzzCreate makes machines of arbitrary configurations: each is either made,
// or refused with a code and nothing left.
func FuzzCreate(f *testing.F) {
	for _, seed := range []string{full, `{}`, `{"image":"app"}`, `{"image":"bare"}`, `{"image":"app","guest":{"cpus":99}}`,
		`{"image":"app","processes":[{"cmd":["x"],"user":"node"}]}`, `{"image":"app","files":[{"guest_path":"/x","secret_name":"NONE"}]}`,
		`{"image":"app","checks":{"a":{"type":"tcp","port":1,"interval":"5s"}}}`, `{"image":"app","init":{"exec":[""]}}`} {
		f.Add([]byte(seed))
	}
	w := newWorld(f)
	d := w.run(func(c *Config) { c.backoff = time.Hour })
	f.Fuzz(func(t *testing.T, body []byte) {
		c := new(api.MachineConfig)
		if json.Unmarshal(body, c) != nil {
			return
		}
		m, err := d.Create(t.Context(), "shop", api.CreateMachineRequest{Config: c})
		if err != nil {
			if e := api.AsError(err); e.Code == api.CodeInternal || e.Message == "" {
				t.Fatalf("refused with %v", err)
			}
			if n := len(d.List("")); n != 0 {
				t.Fatalf("a refused machine is there")
			}
			return
		}
		ok(t, d.Destroy(t.Context(), m.ID, true, ""))
	})
}
