package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/perigee-run/perigee/internal/debian"
)

// deployFigure measures `perigee deploy --image` of an image of about 100 MB
// that is in the registry and was never on the node, from the command to the
// first healthy answer; beside it what the plainest path of others costs: pull
// and unpack with skopeo and tar, then runc.
func (b *bench) deployFigure(ctx context.Context) error {
	recipe, _ := withHostNode(debian.Node())
	img, err := b.makeImage("node", recipe, 512)
	if err != nil {
		return err
	}
	token, err := os.ReadFile(filepath.Join(b.work, "data", "token"))
	if err != nil {
		return err
	}
	auth := &authn.Basic{Username: "perigee", Password: strings.TrimSpace(string(token))}
	var ours, theirs samples
	parts := split{}
	for round := range max(3, b.rounds/3) {
		ref, err := b.push(img.image, auth, round)
		if err != nil {
			return err
		}
		took, err := b.deployOnce(ctx, ref, round, parts)
		if err != nil {
			return err
		}
		ours = append(ours, took)
		if took, err = b.pullAndRun(ref, auth, img); err != nil {
			return err
		}
		theirs = append(theirs, took)
	}
	rows := [][]string{
		{"perigee deploy --image", ours.String(), "3000", ""},
		{"  of it: image, release, command line", parts["rest"].String(), "", ""},
		{"  of it: the machine's start", parts["total_ms"].String(), "", ""},
		{"  of it: until the first check passed", parts["check"].String(), "", ""},
		{"skopeo copy, tar, runc run", theirs.String(), "", fmt.Sprintf("ours takes %.2f of it", float64(ours.median())/float64(theirs.median()))},
	}
	printTable(fmt.Sprintf("A new 100 MB image in the registry to the first healthy answer, ms, %d rounds", len(ours)), []string{"path", "ms", "goal", ""}, rows)
	return nil
}

// push puts a variant of the image that nobody has seen into the registry.
func (b *bench) push(img v1.Image, auth authn.Authenticator, round int) (string, error) {
	fresh, err := renew(img)
	if err != nil {
		return "", err
	}
	ref := fmt.Sprintf("%s/bench/node:%d", strings.Replace(b.cloud.api, "127.0.0.1", "localhost", 1), round)
	tag, err := name.ParseReference(ref, name.Insecure)
	if err != nil {
		return "", err
	}
	return ref, remote.Write(tag, fresh, remote.WithAuth(auth))
}

// renew adds a small random layer, so that the image was never flattened before.
func renew(img v1.Image) (v1.Image, error) {
	salt := make([]byte, 4096)
	rand.Read(salt)
	top, err := debian.Image(debian.Recipe{Users: debian.Node().Users, Files: map[string][]byte{"/salt": salt}})
	if err != nil {
		return nil, err
	}
	layers, err := top.Layers()
	if err != nil {
		return nil, err
	}
	return mutate.AppendLayers(img, layers...)
}

func (b *bench) deployOnce(ctx context.Context, ref string, round int, parts split) (time.Duration, error) {
	app := fmt.Sprintf("fresh%d", round)
	dir := filepath.Join(b.work, app)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return 0, err
	}
	toml := fmt.Sprintf("app = %q\n[http_service]\n  internal_port = 8080\n  [[http_service.checks]]\n    path = \"/\"\n[[vm]]\n  memory = \"512mb\"\n", app)
	if err := os.WriteFile(filepath.Join(dir, "perigee.toml"), []byte(toml), 0o644); err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(b.bin, "perigee"), "deploy", "--image", ref)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "PERIGEE_ADDR=unix://"+filepath.Join(b.work, "api.sock"))
	began := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("perigee deploy: %w: %s", err, out)
	}
	deployed := time.Since(began)
	if _, err := b.cloud.firstByte(app); err != nil {
		return 0, err
	}
	took := time.Since(began)
	if err := b.deploySplit(ctx, app, deployed, parts); err != nil {
		return 0, err
	}
	return took, b.cloud.client.DeleteApp(ctx, app)
}

// deploySplit notes where the time went, as the machine's events tell it.
func (b *bench) deploySplit(ctx context.Context, app string, deployed time.Duration, parts split) error {
	ms, err := b.cloud.client.ListMachines(ctx, app)
	if err != nil || len(ms) == 0 {
		return fmt.Errorf("the deployed app has no machine: %w", err)
	}
	d := detailOf(ms[0])
	start, check := fact(d, "total_ms"), fact(d, "first_check_ms")
	parts.add("total_ms", start)
	parts.add("check", check)
	parts.add("rest", deployed-start-check)
	return nil
}

func (b *bench) pullAndRun(ref string, auth *authn.Basic, img *benchImage) (time.Duration, error) {
	layout, rootfs := filepath.Join(b.work, "layout"), filepath.Join(b.work, "pulled")
	defer os.RemoveAll(layout)
	defer os.RemoveAll(rootfs)
	if err := os.MkdirAll(rootfs, 0o755); err != nil {
		return 0, err
	}
	script := `set -e
skopeo copy -q --src-tls-verify=false --src-creds "$CREDS" "docker://$REF" "dir:$LAYOUT"
for layer in $(grep -o '"sha256:[0-9a-f]*"' "$LAYOUT/manifest.json" | tail -n +2 | tr -d '"' | cut -d: -f2); do tar -xzf "$LAYOUT/$layer" -C "$ROOTFS"; done
mkdir -p "$ROOTFS/proc" "$ROOTFS/dev" "$ROOTFS/sys" "$ROOTFS/tmp"`
	cmd := exec.Command("bash", "-c", script)
	cmd.Env = append(os.Environ(), "CREDS="+auth.Username+":"+auth.Password, "REF="+ref, "LAYOUT="+layout, "ROOTFS="+rootfs)
	began := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("skopeo and tar: %w: %s", err, out)
	}
	unpacked := time.Since(began)
	runc, err := b.runtime("runc")
	if err != nil {
		return 0, err
	}
	pulled := *img
	pulled.rootfs = rootfs
	start, err := runc.cold(&pulled)
	return unpacked + start, err
}
