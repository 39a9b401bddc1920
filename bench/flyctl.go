package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// flyctlFigure measures `flyctl deploy --image` of an app with one machine, first
// deploy and update, from the command to its end, where there is a flyctl (FLYCTL
// or the PATH), and the node's share of it: the same requests, made one after the
// other without the client's own pauses.
func (b *bench) flyctlFigure(ctx context.Context) error {
	image, err := b.putTiny(ctx, "images")
	if err != nil {
		return err
	}
	f := &fly{b: b, bin: os.Getenv("FLYCTL"), image: image}
	token, err := os.ReadFile(filepath.Join(b.work, "data", "token"))
	if err != nil {
		return err
	}
	f.token = strings.TrimSpace(string(token))
	if f.bin == "" {
		f.bin, _ = exec.LookPath("flyctl")
	}
	rows, err := f.rows(ctx)
	if err != nil {
		return err
	}
	printTable("flyctl deploy --image, one machine, ms", []string{"path", "first deploy", "update", "goal", ""}, rows)
	return nil
}

// fly deploys as flyctl does.
type fly struct {
	b                 *bench
	bin, image, token string
	apps              int
}

func (f *fly) rows(ctx context.Context) ([][]string, error) {
	var rows [][]string
	for _, way := range []struct {
		name, note string
		args       []string
	}{
		{"flyctl, as it is", "10,000 of it flyctl watches every new machine, whatever the server does", nil},
		{"flyctl --strategy immediate", "", []string{"--strategy", "immediate"}},
		{"flyctl --smoke-checks=false", "", []string{"--smoke-checks=false"}},
	} {
		if f.bin == "" {
			rows = append(rows, []string{way.name, "-", "-", "5000", "there is no flyctl: FLYCTL may name one"})
			continue
		}
		first, update, err := f.measure(ctx, max(1, f.b.rounds/3), func(dir string) error { return f.deploy(ctx, dir, way.args) })
		if err != nil {
			return nil, err
		}
		rows = append(rows, []string{way.name, first.String(), update.String(), "5000", way.note})
	}
	first, update, err := f.measure(ctx, f.b.rounds, func(dir string) error { return f.replay(ctx, filepath.Base(dir)) })
	return append(rows, []string{"its requests alone, to the node", first.String(), update.String(), "", ""}), err
}

// measure deploys twice to a new app in each round.
func (f *fly) measure(ctx context.Context, rounds int, deploy func(dir string) error) (first, update samples, err error) {
	for range rounds {
		f.apps++
		dir := filepath.Join(f.b.work, fmt.Sprintf("fly%d", f.apps))
		if err := f.app(ctx, dir); err != nil {
			return nil, nil, err
		}
		for _, s := range []*samples{&first, &update} {
			began := time.Now()
			if err := deploy(dir); err != nil {
				return nil, nil, err
			}
			*s = append(*s, time.Since(began))
		}
		if err := f.b.cloud.client.DeleteApp(ctx, filepath.Base(dir)); err != nil {
			return nil, nil, err
		}
	}
	return first, update, nil
}

// app makes an app, and its folder.
func (f *fly) app(ctx context.Context, dir string) error {
	name := filepath.Base(dir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	toml := fmt.Sprintf("app = %q\nprimary_region = \"lab\"\n[http_service]\n  internal_port = 8080\n  auto_stop_machines = \"off\"\n  min_machines_running = 1\n", name)
	if err := os.WriteFile(filepath.Join(dir, "fly.toml"), []byte(toml), 0o644); err != nil {
		return err
	}
	_, err := f.ask(ctx, http.MethodPost, "/v1/apps?wait=true", map[string]any{"name": name, "org_slug": "personal"})
	return err
}

// deploy leaves out the look at the public DNS, which cannot be reached from here.
func (f *fly) deploy(ctx context.Context, dir string, more []string) error {
	cmd := exec.CommandContext(ctx, f.bin, append([]string{"deploy", "--image", f.image, "--ha=false", "--yes", "--dns-checks=false"}, more...)...)
	node := "http://" + f.b.cloud.api
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "FLY_API_BASE_URL="+node, "FLY_FLAPS_BASE_URL="+node, "FLY_UIEX_BASE_URL="+node, "FLY_API_TOKEN="+f.token,
		"FLY_SEND_METRICS=0", "FLY_NO_UPDATE_CHECK=1", "FLY_CONFIG_DIR="+dir, "HOME="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("flyctl: %w: %s", err, out)
	}
	return nil
}

// replay makes the requests of a deploy, in flyctl's order.
func (f *fly) replay(ctx context.Context, app string) error {
	gql := func(query string) error {
		_, err := f.ask(ctx, http.MethodPost, "/graphql", map[string]any{"query": query})
		return err
	}
	get := func(path string) error {
		_, err := f.ask(ctx, http.MethodGet, path, nil)
		return err
	}
	if err := first(
		func() error { return get("/v1/apps/" + app) }, func() error { return get("/api/v1/organizations/personal") },
		func() error {
			_, err := f.ask(ctx, http.MethodPost, "/api/v1/builds", map[string]any{"app_name": app})
			return err
		},
		func() error {
			return gql(fmt.Sprintf("query { app(name: %q) { id image(ref: %q) { id digest ref compressedSizeFull manifest } } }", app, f.image))
		},
		func() error { return get("/v1/apps/" + app + "/machines") }, func() error { return get("/v1/apps/" + app + "/ip_assignments") },
		func() error {
			return gql(fmt.Sprintf("query { app(name: %q) { egressIpAddresses { nodes { id } } } }", app))
		},
	); err != nil {
		return err
	}
	r, err := f.ask(ctx, http.MethodPost, "/api/v1/releases", map[string]any{"app_name": app, "image": f.image, "strategy": "ROLLING", "definition": map[string]any{"app": app}})
	if err != nil {
		return err
	}
	release, _ := r["release"].(map[string]any)
	if err := f.machine(ctx, app, release); err != nil {
		return err
	}
	_, err = f.ask(ctx, http.MethodPatch, fmt.Sprint("/api/v1/releases/", release["id"]), map[string]any{"status": "complete"})
	return err
}

// machine makes the app's machine, or updates it under a lease, and waits for it.
func (f *fly) machine(ctx context.Context, app string, release map[string]any) error {
	path := "/v1/apps/" + app + "/machines"
	config := map[string]any{"image": f.image, "guest": map[string]any{"memory_mb": 256, "cpus": 1, "cpu_kind": "shared"},
		"metadata": map[string]string{"fly_platform_version": "v2", "fly_process_group": "app", "fly_release_version": fmt.Sprint(release["version"])},
		"services": []any{map[string]any{"protocol": "tcp", "internal_port": 8080, "ports": []any{map[string]any{"port": 80, "handlers": []string{"http"}}}}}}
	old, err := f.b.cloud.client.ListMachines(ctx, app)
	if err != nil {
		return err
	}
	if len(old) > 0 {
		path += "/" + old[0].ID
	}
	m, err := f.ask(ctx, http.MethodPost, path, map[string]any{"config": config, "region": "lab"})
	if err != nil {
		return err
	}
	at := fmt.Sprintf("/v1/apps/%s/machines/%v", app, m["id"])
	for _, p := range []string{"/wait?state=started&timeout=60", ""} {
		if _, err := f.ask(ctx, http.MethodGet, at+p, nil); err != nil {
			return err
		}
	}
	return nil
}

// ask makes a request as flyctl does.
func (f *fly) ask(ctx context.Context, method, path string, in any) (map[string]any, error) {
	b, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+f.b.cloud.api+path, strings.NewReader(string(b)))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+f.token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode >= 300 || strings.HasPrefix(string(text), `{"errors"`) {
		return nil, fmt.Errorf("%s %s: %d %s: %w", method, path, resp.StatusCode, text, err)
	}
	var out map[string]any
	_ = json.Unmarshal(text, &out) // a list is not looked at
	return out, nil
}

// first does one thing after the other until one fails.
func first(steps ...func() error) error {
	for _, s := range steps {
		if err := s(); err != nil {
			return err
		}
	}
	return nil
}
