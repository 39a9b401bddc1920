package rules

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/appconfig"
)

func TestCheck(t *testing.T) {
	cases := []struct{ field, code, config string }{
		{"config.image", "invalid", `{}`},
		{"config.image", "invalid", `{"image":"a b"}`},
		{"config.guest.gpus", "unsupported", `{"guest":{"gpus":1}}`},
		{"config.guest.gpus", "unsupported", `{"guest":{"gpu_kind":"a100"}}`},
		{"config.containers", "unsupported", `{"containers":[{"name":"x"},{"name":"y"}]}`},
		{"config.containers[0].mounts", "unsupported", `{"containers":[{"name":"x","mounts":[{"name":"v","path":"/v"}]}]}`},
		{"config.containers[0].env_from[0].field_ref", "invalid", `{"containers":[{"name":"x","env_from":[{"env_var":"A","field_ref":"name"}]}]}`},
		{"config.processes", "invalid", `{"containers":[{"name":"x"}],"processes":[{}]}`},
		{"config.processes[0].secrets", "unsupported", `{"processes":[{"ignore_app_secrets":true}]}`},
		{"config.volumes", "unsupported", `{"volumes":[{"name":"v"}]}`},
		{"config.files[0].image_config", "unsupported", `{"files":[{"guest_path":"/x","image_config":"i"}]}`},
		{"config.guest.kernel_args", "unsupported", `{"guest":{"kernel_args":["quiet"]}}`},
		{"config.init.kernel_args", "unsupported", `{"init":{"kernel_args":["quiet"]}}`},
		{"config.dns.dns_forward_rules", "unsupported", `{"dns":{"dns_forward_rules":[{"basename":"x.test","addr":"1.1.1.1:53"}]}}`},
		{"config.dns.options[0]", "invalid", `{"dns":{"options":[{"name":"nd ots"}]}}`},
		{"config.dns.hostname_fqdn", "invalid", `{"dns":{"hostname_fqdn":"short"}}`},
		{"config.mounts[0].path", "invalid", `{"mounts":[{"volume":"v","path":"data"}]}`},
		{"config.mounts[0].path", "invalid", `{"mounts":[{"volume":"v","path":"/proc/x"}]}`},
		{"config.mounts[0].volume", "invalid", `{"mounts":[{"path":"/data"}]}`},
		{"config.mounts[1].path", "invalid", `{"mounts":[{"volume":"v","path":"/data"},{"volume":"w","path":"/data/"}]}`},
		{"config.mounts[1].volume", "invalid", `{"mounts":[{"volume":"v","path":"/data"},{"volume":"v","path":"/x"}]}`},
		{"config.processes", "unsupported", `{"processes":[{},{}]}`},
		{"config.schedule", "invalid", `{"schedule":"yearly"}`},
		{"config.standbys[0]", "invalid", `{"standbys":["x"]}`},
		{"config.standbys", "invalid", `{"schedule":"daily","standbys":["3d8d9014b32789"]}`},
		{"config.init.swap_size_mb", "unsupported", `{"init":{"swap_size_mb":512}}`},
		{"config.guest.max_memory_mb", "invalid", `{"guest":{"max_memory_mb":128}}`},
		{"config.guest.max_memory_mb", "invalid", `{"guest":{"max_memory_mb":4097}}`},
		{"config.services[0].protocol", "unsupported", `{"services":[{"protocol":"udp","internal_port":53}]}`},
		{"config.guest.cpu_kind", "invalid", `{"guest":{"cpu_kind":"fast"}}`},
		{"config.guest.cpus", "invalid", `{"guest":{"cpus":-1}}`},
		{"config.guest.cpus", "invalid", `{"guest":{"cpus":3}}`},
		{"config.guest.memory_mb", "invalid", `{"guest":{"memory_mb":63}}`},
		{"config.guest.memory_mb", "invalid", `{"guest":{"memory_mb":4097}}`},
		{"config.guest.pids", "invalid", `{"guest":{"pids":1000000}}`},
		{"config.init.working_dir", "invalid", `{"init":{"working_dir":"srv"}}`},
		{"config.init.user", "invalid", `{"init":{"user":"a b"}}`},
		{"config.init.exec[1]", "invalid", `{"init":{"exec":["a","b\u0000"]}}`},
		{"config.env.A=B", "invalid", `{"env":{"A=B":"1"}}`},
		{"config.env.A", "invalid", `{"env":{"A":"\u0000"}}`},
		{"config.metadata.bad key", "invalid", `{"metadata":{"bad key":"1"}}`},
		{"config.files[0].guest_path", "invalid", `{"files":[{"guest_path":"etc/x","raw_value":""}]}`},
		{"config.files[0].guest_path", "invalid", `{"files":[{"guest_path":"/a/../b","raw_value":""}]}`},
		{"config.files[0].guest_path", "invalid", `{"files":[{"guest_path":"/proc/self/x","raw_value":""}]}`},
		{"config.files[0].guest_path", "invalid", `{"files":[{"guest_path":"/dir/","raw_value":""}]}`},
		{"config.files[0].raw_value", "invalid", `{"files":[{"guest_path":"/x","raw_value":"!"}]}`},
		{"config.files[0]", "invalid", `{"files":[{"guest_path":"/x"}]}`},
		{"config.files[0].mode", "invalid", `{"files":[{"guest_path":"/x","raw_value":"","mode":65536}]}`},
		{"config.files[1].guest_path", "invalid", `{"files":[{"guest_path":"/x","raw_value":""},{"guest_path":"//x","raw_value":""}]}`},
		{"config.services[0].internal_port", "invalid", `{"services":[{"internal_port":0}]}`},
		{"config.services[0].ports[0].port", "invalid", `{"services":[{"internal_port":80,"ports":[{"port":70000}]}]}`},
		{"config.services[0].ports[0].port", "invalid", `{"services":[{"internal_port":80,"ports":[{"start_port":9,"end_port":3}]}]}`},
		{"config.services[0].ports[0].handlers[0]", "invalid", `{"services":[{"internal_port":80,"ports":[{"port":80,"handlers":["htpp"]}]}]}`},
		{"config.services[0].ports[0].handlers[1]", "unsupported", `{"services":[{"internal_port":80,"ports":[{"port":80,"handlers":["tls","edge_http"]}]}]}`},
		{"config.services[0].ports[0].handlers", "invalid", `{"services":[{"internal_port":80,"ports":[{"port":80,"handlers":["tls","pg_tls"]}]}]}`},
		{"config.services[0].ports[0].handlers", "invalid", `{"services":[{"internal_port":80,"ports":[{"port":80,"handlers":["http","proxy_proto"]}]}]}`},
		{"config.files[0].secret_name", "invalid", `{"files":[{"guest_path":"/x","secret_name":"TLS.KEY"}]}`},
		{"config.stop_config.signal", "invalid", `{"stop_config":{"signal":"99"}}`},
		{"config.mounts[0].path", "invalid", `{"mounts":[{"name":"data","path":"/a/../../etc"}]}`},
		{"config.services[1].ports[0].port", "invalid", `{"services":[{"internal_port":80,"ports":[{"port":80}]},{"internal_port":81,"ports":[{"start_port":79,"end_port":81}]}]}`},
		{"config.services[0].concurrency.soft_limit", "invalid", `{"services":[{"internal_port":80,"concurrency":{"soft_limit":9,"hard_limit":3}}]}`},
		{"config.services[0].concurrency.type", "invalid", `{"services":[{"internal_port":80,"concurrency":{"type":"users"}}]}`},
		{"config.services[0].min_machines_running", "invalid", `{"services":[{"internal_port":80,"min_machines_running":-1}]}`},
		{"config.services[0].checks[0].type", "invalid", `{"services":[{"internal_port":80,"checks":[{"type":"dns"}]}]}`},
		{"config.checks.x.type", "invalid", `{"checks":{"x":{"port":80}}}`},
		{"config.checks.x.port", "invalid", `{"checks":{"x":{"type":"tcp"}}}`},
		{"config.checks.x.interval", "invalid", `{"checks":{"x":{"type":"tcp","port":80,"interval":"1ms"}}}`},
		{"config.checks.x.timeout", "invalid", `{"checks":{"x":{"type":"tcp","port":80,"timeout":"2h"}}}`},
		{"config.checks.x.grace_period", "invalid", `{"checks":{"x":{"type":"tcp","port":80,"grace_period":"-1s"}}}`},
		{"config.checks.x.path", "invalid", `{"checks":{"x":{"type":"http","port":80,"path":"health"}}}`},
		{"config.checks.x.headers[0]", "invalid", `{"checks":{"x":{"type":"http","port":80,"headers":[{"name":"a b"}]}}}`},
		{"config.restart.policy", "invalid", `{"restart":{"policy":"sometimes"}}`},
		{"config.restart.max_retries", "invalid", `{"restart":{"max_retries":-1}}`},
		{"config.stop_config.signal", "invalid", `{"stop_config":{"signal":"SIGFOO"}}`},
		{"config.stop_config.timeout", "invalid", `{"stop_config":{"timeout":"1h"}}`},
		{"config.rootfs.persist", "invalid", `{"rootfs":{"persist":"forever"}}`},
		{"config.guest.persist_rootfs", "invalid", `{"guest":{"persist_rootfs":"forever"}}`},
		{"config.dns.nameservers[0]", "invalid", `{"dns":{"nameservers":["ns.example"]}}`},
	}
	for i, c := range cases {
		t.Run(c.field, func(t *testing.T) {
			conf := &api.MachineConfig{Image: "app"}
			if i == 0 {
				conf.Image = ""
			}
			ok(t, json.Unmarshal([]byte(c.config), conf))
			err := Check(conf, Node{2, 4096})
			want(t, err, c.code)
			if e := api.AsError(err); e.Field != c.field || !strings.HasPrefix(e.Message, c.field) {
				t.Errorf("field %q in %q, want %q", e.Field, e.Message, c.field)
			}
		})
	}
	want(t, Check(nil, Node{2, 4096}), api.CodeInvalid)
	big := &api.MachineConfig{Image: "app", Metadata: map[string]string{"x": strings.Repeat("y", MaxSize)}}
	want(t, Check(big, Node{2, 4096}), api.CodeInvalid)
}

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
"statics":[{"guest_path":"/public","url_prefix":"/"}],"dns":{"nameservers":["1.1.1.1"],"hostname":"web","hostname_fqdn":"web.example.com","options":[{"name":"ndots","value":"2"}]},
"schedule":"daily","containers":[{"name":"main","cmd":["x"],"env_from":[{"env_var":"ME","field_ref":"id"}]}],"spot":{},"cache_drive":{"size_mb":1}}`

// TestTwoServicesShareAPort: the public ports of both lead to the one port inside.
func TestTwoServicesShareAPort(t *testing.T) {
	c := &api.MachineConfig{Image: "app", Services: []api.Service{
		{InternalPort: 80, Ports: []api.Port{{Port: 80, Handlers: []string{"http"}}}},
		{InternalPort: 80, Ports: []api.Port{{Port: 443, Handlers: []string{"tls", "http"}}}},
	}}
	ok(t, Check(c, Node{2, 4096}))
}

// TestSignalsAsInFiles: what a configuration file may name, the node knows.
func TestSignalsAsInFiles(t *testing.T) {
	for _, s := range []string{"SIGTERM", "TERM", "term", "sigusr1", "SIGWINCH", "SIGSTKFLT", "9", "64", "65", "99", "0", "-1", "015", "SIG", "SIG9", "SIGRTMIN", "NOPE", "1.5", " TERM"} {
		_, err := Signal("signal", s)
		_, _, fileErr := appconfig.Parse("perigee.toml", fmt.Appendf(nil, "kill_signal = %q\n", s))
		if (err == nil) != (fileErr == nil) {
			t.Errorf("%q: the node says %v, the file's check %v", s, err, fileErr)
		}
	}
}

func TestCheckTakesAllThatIsSupported(t *testing.T) {
	c := new(api.MachineConfig)
	ok(t, json.Unmarshal([]byte(full), c))
	ok(t, Check(c, Node{2, 4096}))
}

// want fails the test unless err carries the code.
func want(t testing.TB, err error, code string) {
	t.Helper()
	if !api.IsCode(err, code) {
		t.Fatalf("got error %v, want one with code %q", err, code)
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
