package httpapi

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/perigee-run/perigee/api"
)

func quietLogger() *slog.Logger { return slog.New(slog.DiscardHandler) }

func basic(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func TestCheckNamesTheField(t *testing.T) {
	for body, field := range map[string]string{
		`{"config":{"guest":{"cpus":"two"}}}`:                                      "config.guest.cpus",
		`{"config":{"guest":{"cpus":1.5}}}`:                                        "config.guest.cpus",
		`{"config":{"guest":{"cpus":1e99}}}`:                                       "config.guest.cpus",
		`{"config":{"env":{"A":1}}}`:                                               "config.env.A",
		`{"config":{"env":[]}}`:                                                    "config.env",
		`{"config":{"services":[{"internal_port":80},{"internal_port":"x"}]}}`:     "config.services[1].internal_port",
		`{"config":{"services":[{"autostop":"sometimes"}]}}`:                       "config.services[0].autostop",
		`{"config":{"services":[{"ports":[{"handlers":"http"}]}]}}`:                "config.services[0].ports[0].handlers",
		`{"config":{"checks":{"web":{"interval":"soon"}}}}`:                        "config.checks.web.interval",
		`{"config":{"checks":{"web":{"type":"icmp"}}}}`:                            "config.checks.web.type",
		`{"config":{"restart":{"policy":"maybe"}}}`:                                "config.restart.policy",
		`{"config":{"files":[{"mode":-1}]}}`:                                       "config.files[0].mode",
		`{"config":{"files":[{"mode":4294967296}]}}`:                               "config.files[0].mode",
		`{"skip_launch":"yes"}`:                                                    "skip_launch",
		`{"config":"x"}`:                                                           "config",
		`{"config":{"services":[{"http_options":{"x":1}}],"metadata":{"a":true}}}`: "config.metadata.a",
		`{"config":{"services":[null,7]}}`:                                         "config.services[1]",
		`{"CONFIG":{"image":"x"}}`:                                                 "CONFIG",
		`{"config":{"re\u017ftart":{"policy":"maybe"}}}`:                           `config.re\u017ftart`,
		`{"config":{"restart":{"policy":"maybe"},"restart":{}}}`:                   "config.restart",
		`{"config":{"services":[{},{"ports":[],"ports":[]}]}}`:                     "config.services[1].ports",
	} {
		var in api.CreateMachineRequest
		_, err := check([]byte(body), &in)
		if e := api.AsError(err); e == nil || e.Field != field || e.Code != api.CodeInvalid {
			t.Errorf("%s: %+v", body, e)
		}
	}
}

func TestCheckTakesWhatFlySends(t *testing.T) {
	body := `{"name":"","region":"","config":{"env":null,"init":{},"image":"x","metadata":null,"restart":{"policy":""},
		"services":[{"protocol":"tcp","autostop":false,"autostart":null,"concurrency":null,"checks":[{"interval":15000000000,"timeout":"2s"}]}],
		"checks":null,"fly_only":{"deep":[1]}},"lease_ttl":13,"input":null}`
	var in api.CreateMachineRequest
	unknown, err := check([]byte(body), &in)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Join(unknown, " ") != "config.fly_only input" {
		t.Errorf("unknown = %q", unknown)
	}
	s := in.Config.Services[0]
	if *s.Autostop != api.AutostopOff || s.Checks[0].Interval.String() != "15s" || in.LeaseTTL != 13 {
		t.Errorf("read %+v", in)
	}
	var secrets api.SetSecretsRequest
	if _, err := check([]byte(`{"values":{"A":"x","B":null}}`), &secrets); err != nil || len(secrets.Values) != 2 || secrets.Values["B"] != nil {
		t.Errorf("secrets = %+v, %v", secrets, err)
	}
}

// FuzzBody feeds anything to the reader of bodies: it must answer with an error
// in the API's shape or with a value that can be written again.
func FuzzBody(f *testing.F) {
	for _, s := range []string{`{}`, `{"config":{"image":"x","guest":{"cpus":2}}}`, `{"app_name":"shop"}`, `[`, `{"a":{"a":{"a":1}}}`, `{"config":{"checks":{"\u0000":{"interval":"1s"}}}}`,
		`{"command":["sh"],"tty":true,"size":{"rows":65536}}`, `{"values":{"A":null}}`, `{"image":"x","groups":{"web":{"services":[{"autostop":true}]}},"wait_timeout":1e3}`, "\xff", `{"config":{"env":{"A":"\ud800"}}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		fuzzOne[api.CreateMachineRequest](t, body)
		fuzzOne[api.CreateAppRequest](t, body)
		fuzzOne[api.DeployRequest](t, body)
		fuzzOne[api.SetSecretsRequest](t, body)
		fuzzOne[api.ExecStreamRequest](t, body)
	})
}

func fuzzOne[T any](t *testing.T, body []byte) {
	var v T
	unknown, err := check(body, &v)
	for _, u := range unknown {
		if strings.ContainsAny(u, "\r\n\x00") {
			t.Errorf("unknown field %q would break a header", u)
		}
	}
	var e *api.Error
	if err != nil {
		if !errors.As(err, &e) || e.Message == "" || api.Codes[e.Code] < 400 || api.Codes[e.Code] >= 500 {
			t.Errorf("error = %#v", err)
		}
		return
	}
	if _, err := json.Marshal(v); err != nil {
		t.Errorf("what was read cannot be written: %v", err)
	}
}
