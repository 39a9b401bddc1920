package httpapi

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/sandbox"
)

// FuzzBodies sends bodies to everything that takes one: no panic, and nothing that is our
// fault.
func FuzzBodies(f *testing.F) {
	k := newKit(f)
	k.app(f, "shop")
	m, err := k.CreateMachine(f.Context(), "shop", api.CreateMachineRequest{SkipLaunch: true, Config: &api.MachineConfig{Image: "one"}})
	if err != nil {
		f.Fatal(err)
	}
	// Commands would run on this host: this machine never runs.
	still, err := k.CreateMachine(f.Context(), "shop", api.CreateMachineRequest{SkipLaunch: true, Config: &api.MachineConfig{Image: "one"}})
	if err != nil {
		f.Fatal(err)
	}
	chain, key := issue(f, m.CreatedAt.AddDate(1, 0, 0), "shop.example.com")
	at := []string{
		"POST /v1/apps", "POST /v1/apps/shop/machines", "POST /v1/apps/shop/machines/" + m.ID, "POST /v1/apps/shop/machines/" + still.ID + "/exec",
		"POST /v1/apps/shop/machines/" + m.ID + "/stop", "POST /v1/apps/shop/machines/" + m.ID + "/signal", "POST /v1/apps/shop/machines/" + m.ID + "/lease",
		"PUT /v1/apps/shop/machines/" + m.ID + "/metadata", "PATCH /v1/apps/shop/machines/" + m.ID + "/metadata", "POST /v1/apps/shop/machines/" + m.ID + "/metadata/k",
		"PUT /v1/apps/shop/machines/" + m.ID + "/memory", "POST /v1/apps/shop/machines/" + m.ID + "/memory/reclaim", "POST /v1/platform/placements",
		"POST /v1/apps/shop/certificates/acme", "POST /v1/apps/shop/certificates/custom", "POST /v1/apps/shop/ip_assignments", "POST /v1/apps/shop/hosts",
		"POST /v1/apps/shop/secrets", "POST /v1/apps/shop/scale", "POST /v1/apps/shop/rollback", "POST /v1/nodes/tokens",
	}
	for i := range at {
		f.Add(i, `{}`)
		f.Add(i, `{"config":{"image":"one","guest":{"memory_mb":1e99},"services":[{"internal_port":80,"ports":[{"start_port":1,"end_port":65535}]}]}}`)
		f.Add(i, `{"config":{"image":"one","containers":[{"name":"a"}],"processes":[{}],"size":"shared-cpu-99x","schedule":"daily"},"skip_launch":true}`)
		f.Add(i, `{"command":["true"],"cmd":"'","signal":9,"timeout":-1,"ttl":-5,"limit_mb":-1,"amount_mb":-1,"value":null}`)
		f.Add(i, `{"hostname":"shop.example.com","fullchain":`+quoteJSON(chain)+`,"private_key":`+quoteJSON(key)+`}`)
		f.Add(i, `{"metadata":{"a":null,"b":"c"},"values":{"A":null},"host":"*.x","type":"v4","count":-1,"region":"any,,","uses":1e9}`)
		f.Add(i, `[[[[`)
		f.Add(i, "null")
	}
	handler := k.server.Handler(Token(secret))
	f.Fuzz(func(t *testing.T, i int, body string) {
		if i < 0 || i >= len(at) {
			return
		}
		method, path, _ := strings.Cut(at[i], " ")
		req := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
		req.Header.Set("Authorization", "Bearer "+secret)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, req)
		if w.Code >= http.StatusInternalServerError {
			t.Errorf("%s with %q: %d %s", at[i], body, w.Code, w.Body)
		}
	})
}

// input is a command's standard input.
type input struct {
	got    []byte
	closed bool
}

func (i *input) Write(b []byte) (int, error) {
	i.got = append(i.got, b...)
	return len(b), nil
}

func (i *input) Close() error {
	i.closed = true
	return nil
}

// FuzzFrames gives an exec stream anything for two frames: only input reaches the
// command, as it came, and only the latest size waits.
func FuzzFrames(f *testing.F) {
	stdin, resize := string([]byte{api.FrameStdin}), string([]byte{api.FrameResize})
	for _, s := range [][2]string{{stdin + "hello", stdin}, {resize + `{"rows":24,"cols":80}`, resize + `{"rows":1}`}, {"", "\x00"}, {resize + "[", resize + `{"rows":65536}`}, {"\xff" + "x", stdin + "\x00"}} {
		f.Add([]byte(s[0]), []byte(s[1]))
	}
	f.Fuzz(func(t *testing.T, first, second []byte) {
		x, in := &execution{sizes: make(chan sandbox.Size, 1)}, &input{}
		var want []byte
		for _, b := range [][]byte{first, second} {
			x.take(b, in)
			if len(b) > 0 && b[0] == api.FrameStdin {
				want = append(want, b[1:]...)
			}
		}
		if !bytes.Equal(in.got, want) {
			t.Errorf("%q and %q give %q", first, second, in.got)
		}
		if ends := len(first) == 1 && first[0] == api.FrameStdin || len(second) == 1 && second[0] == api.FrameStdin; in.closed != ends {
			t.Errorf("after %q and %q the input is closed: %v", first, second, in.closed)
		}
	})
}

func quoteJSON(s string) string { return `"` + strings.ReplaceAll(s, "\n", `\n`) + `"` }
