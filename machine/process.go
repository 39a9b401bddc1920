package machine

import (
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/image"
	"github.com/perigee-run/perigee/machine/rules"
	"github.com/perigee-run/perigee/sandbox"
)

const (
	defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// plan is everything about a start that can be known before it: the same for
// all starts of one version.
type plan struct {
	image  image.Image
	args   []string
	cwd    string
	uid    uint32
	gid    uint32
	groups []uint32
	home   string
	env    map[string]string // all but secrets and what changes with a start
	node   string            // the node's name
	public string            // and address for clients, "" if it is not known
	stop   int               // signal that asks the process to end
}

// process is what a configuration says to run, with Fly's older form folded in.
func process(c *api.MachineConfig) api.Init {
	in := api.Init{}
	if c.Init != nil {
		in = *c.Init
	}
	if p, ok := alone(c); ok {
		in.Exec = orSlice(p.Exec, in.Exec)
		in.Entrypoint = orSlice(p.Entrypoint, in.Entrypoint)
		in.Cmd = orSlice(p.Cmd, in.Cmd)
		in.User = cmp.Or(p.User, in.User)
	}
	return in
}

// alone is the one process or the one container of the configuration.
func alone(c *api.MachineConfig) (api.Process, bool) {
	switch {
	case len(c.Processes) == 1:
		return c.Processes[0], true
	case len(c.Containers) == 1:
		k := &c.Containers[0]
		return api.Process{Exec: k.Exec, Entrypoint: k.Entrypoint, Cmd: k.Cmd, User: k.User, Env: k.Env, EnvFrom: k.EnvFrom}, true
	}
	return api.Process{}, false
}

func orSlice(a, b []string) []string {
	if len(a) > 0 {
		return a
	}
	return b
}

// command joins what the configuration and the image say, as Docker does: an
// entrypoint of one's own drops the image's cmd too.
func command(in api.Init, img image.RunConfig) []string {
	if len(in.Exec) > 0 {
		return in.Exec
	}
	if len(in.Entrypoint) > 0 {
		return slices.Concat(in.Entrypoint, in.Cmd)
	}
	return slices.Concat(img.Entrypoint, orSlice(in.Cmd, img.Cmd))
}

// newPlan resolves a configuration against its image.
func (h *Host) newPlan(c *api.MachineConfig, img image.Image) (*plan, error) {
	in := process(c)
	p := &plan{image: img, args: command(in, img.Config), cwd: cmp.Or(in.WorkingDir, img.Config.WorkingDir, "/")}
	if len(p.args) == 0 {
		return nil, invalid("config.init", "image %q says no command to run", c.Image).WithHint("set init.cmd or init.exec")
	}
	if !path.IsAbs(p.cwd) {
		p.cwd = "/" + p.cwd
	}
	if err := p.user(h.cfg.Images, cmp.Or(in.User, img.Config.User), in.User != ""); err != nil {
		return nil, err
	}
	p.env, p.node, p.public = baseEnv(c, img.Config.Env), h.cfg.Node, h.cfg.PublicIP
	var err error
	p.stop, err = stopSignal(c, img.Config.StopSignal)
	return p, err
}

func (p *plan) user(images Images, user string, own bool) (err error) {
	p.uid, p.gid, p.groups, p.home, err = images.LookupUser(p.image.Digest, user)
	switch {
	case err == nil:
		return nil
	case own:
		return invalid("config.init.user", "image %q: %v", p.image.Ref, err)
	}
	return imageFault(p.image.Ref, err)
}

func stopSignal(c *api.MachineConfig, ofImage string) (int, error) {
	if c.StopConfig != nil && c.StopConfig.Signal != "" {
		return rules.Signal("config.stop_config.signal", c.StopConfig.Signal)
	}
	if ofImage != "" {
		if n, err := rules.Signal("config.image", ofImage); err == nil {
			return n, nil
		}
	}
	return rules.Signal("", "SIGINT")
}

func imageFault(ref string, err error) error {
	if isAPI(err) {
		return err
	}
	return api.Errorf(api.CodeImage, "image %q cannot be used: %v", ref, err).WithField("config.image")
}

// baseEnv is the image's environment with the configuration's over it.
func baseEnv(c *api.MachineConfig, ofImage []string) map[string]string {
	env := map[string]string{}
	for _, kv := range ofImage {
		k, v, _ := strings.Cut(kv, "=")
		env[k] = v
	}
	maps.Copy(env, c.Env)
	if p, ok := alone(c); ok {
		maps.Copy(env, p.Env)
	}
	return env
}

// environ is the whole environment of a start, sorted. Secrets win over the
// configuration, and what Perigee says about the machine wins over both.
func (p *plan) environ(r *Record, secrets map[string]string) []string {
	env := maps.Clone(p.env)
	maps.Copy(env, secrets)
	orKey(env, "PATH", defaultPath)
	orKey(env, "HOME", cmp.Or(p.home, "/"))
	orKey(env, "PRIMARY_REGION", r.Region)
	if process(&r.Config).TTY {
		orKey(env, "TERM", "xterm")
	}
	if p, ok := alone(&r.Config); ok {
		for _, e := range p.EnvFrom {
			env[e.EnvVar] = fact(r, e.FieldRef)
		}
	}
	known := facts(r)
	known["PUBLIC_IP"] = p.public
	for k, v := range known {
		setFact(env, k, v)
	}
	env["PERIGEE_NODE"], env["PERIGEE_ORG"] = p.node, r.Org // Fly has no such words
	out := make([]string, 0, len(env))
	for k, v := range env {
		out = append(out, k+"="+v)
	}
	slices.Sort(out)
	return out
}

func orKey(env map[string]string, key, def string) {
	if env[key] == "" {
		env[key] = def
	}
}

// fact is one of the machine's own fields, by Fly's name of it.
func fact(r *Record, field string) string {
	return map[string]string{"id": r.ID, "version": r.Version, "app_name": r.App, "private_ip": r.PrivateIP,
		"region": r.Region, "image": imageName(r.Image)}[field]
}

// setFact tells the machine a fact under both names. What is not known is not
// told, but nobody else tells it either.
func setFact(env map[string]string, name, value string) {
	for _, prefix := range []string{"FLY_", "PERIGEE_"} {
		if value == "" {
			delete(env, prefix+name)
		} else {
			env[prefix+name] = value
		}
	}
}

// facts is what a machine may know about itself.
func facts(r *Record) map[string]string {
	return map[string]string{
		"APP_NAME": r.App, "MACHINE_ID": r.ID, "ALLOC_ID": r.ID, "REGION": r.Region, "PRIVATE_IP": r.PrivateIP,
		"IMAGE_REF": imageName(r.Image), "MACHINE_VERSION": r.Version, "PROCESS_GROUP": Group(&r.Config),
		"VM_MEMORY_MB": fmt.Sprint(rules.Guest(&r.Config).MemoryMB),
	}
}

// imageName is the full reference by digest, as FLY_IMAGE_REF shows it.
func imageName(i api.ImageRef) string {
	name := i.Repository
	if i.Registry != "" {
		name = i.Registry + "/" + name
	}
	if i.Tag != "" {
		name += ":" + i.Tag
	}
	return name + "@" + i.Digest
}

// imageRef is the image in the API's words. A tag that was asked for together with
// a digest decides nothing, and is shown.
func imageRef(img image.Image, asked string) api.ImageRef {
	tag := img.Tag
	if tag == "" {
		tag = api.TagOf(asked)
	}
	return api.ImageRef{Registry: img.Registry, Repository: img.Repository, Tag: tag, Digest: img.Digest, Labels: img.Labels}
}

// spec is what the sandbox is told to run in the life id.
func (h *Host) spec(ctx context.Context, m *machine, id string) (sandbox.Spec, error) {
	r, p := &m.now().rec, m.plan
	secrets, err := h.secrets(ctx, r)
	if err != nil {
		return sandbox.Spec{}, err
	}
	env := secrets
	if r.NoSecrets {
		env = nil
	}
	files, err := h.files(r, secrets)
	if err != nil {
		return sandbox.Spec{}, err
	}
	layer, err := h.openLayer(ctx, r)
	if err != nil {
		return sandbox.Spec{}, err
	}
	g := rules.Guest(&r.Config)
	return sandbox.Spec{
		ID: id, Rootfs: p.image.Rootfs, Args: p.args, Env: p.environ(r, env), Cwd: p.cwd,
		UID: p.uid, GID: p.gid, AdditionalGIDs: p.groups, Hostname: hostname(r), Terminal: process(&r.Config).TTY,
		Console: h.consoleFile(m.id), Files: files, WritableDir: layer, Sockets: h.sockets(m.id),
		Resources: sandbox.Resources{CPUs: float64(g.CPUs), MemoryMiB: g.MemoryMB, MaxMemoryMiB: g.MaxMemoryMB, PIDs: g.PIDs},
	}, nil
}

// apiSockets are where a machine finds the API of its app: Fly's place, and ours.
var apiSockets = []string{"/.fly/api", "/.perigee/api"}

func (h *Host) sockets(id string) []sandbox.Socket {
	if h.cfg.Door == "" {
		return nil
	}
	out := make([]sandbox.Socket, len(apiSockets))
	for i, path := range apiSockets {
		out[i] = sandbox.Socket{Path: path, Host: h.cfg.Door, Name: id}
	}
	return out
}

// secrets are those that the machine was made with: a mere start must not bring
// what its owner has only staged.
func (h *Host) secrets(ctx context.Context, r *Record) (values map[string]string, err error) {
	named := slices.ContainsFunc(r.Config.Files, func(f api.File) bool { return f.SecretName != nil })
	if r.NoSecrets && !named {
		return nil, nil
	}
	if r.SecretsVersion != nil {
		values, err = h.cfg.Secrets.SecretsAt(ctx, r.App, *r.SecretsVersion)
	} else {
		values, _, err = h.cfg.Secrets.Secrets(ctx, r.App)
	}
	if err != nil {
		return nil, internal(err, "cannot read the secrets of app %q", r.App)
	}
	return values, nil
}

func hostname(r *Record) string {
	if r.Config.DNS != nil && r.Config.DNS.Hostname != "" {
		return r.Config.DNS.Hostname
	}
	return r.ID
}

// files are the machine's small files: its names, then the configuration's own.
func (h *Host) files(r *Record, secrets map[string]string) ([]sandbox.File, error) {
	files := []sandbox.File{
		{Path: "/etc/hosts", Data: hostsFile(r)},
		{Path: "/etc/hostname", Data: []byte(hostname(r) + "\n")},
	}
	if resolv := h.resolvConf(r); resolv != nil {
		files = append(files, sandbox.File{Path: "/etc/resolv.conf", Data: resolv})
	}
	for i, f := range r.Config.Files {
		data, err := content(f, secrets)
		if err != nil {
			return nil, err.WithField(fmt.Sprintf("config.files[%d]", i))
		}
		own := sandbox.File{Path: path.Clean(f.GuestPath), Mode: f.Mode, Data: data}
		files = slices.DeleteFunc(files, func(o sandbox.File) bool { return o.Path == own.Path })
		files = append(files, own)
	}
	return files, nil
}

// content is the file's bytes. A secret that is not base64 is taken as it is,
// for that is what its owner meant.
func content(f api.File, secrets map[string]string) ([]byte, *api.Error) {
	raw := ""
	switch {
	case f.RawValue != nil:
		raw = *f.RawValue
	case f.SecretName != nil:
		v, ok := secrets[*f.SecretName]
		if !ok {
			return nil, api.Errorf(api.CodeInvalid, "file %q needs the secret %q, which is not set", f.GuestPath, *f.SecretName).
				WithHint("set it with: perigee secrets set")
		}
		raw = v
	}
	data, err := base64.StdEncoding.DecodeString(raw)
	if err != nil {
		return []byte(raw), nil
	}
	return data, nil
}

func hostsFile(r *Record) []byte {
	hosts := "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
	name := hostname(r)
	if d := r.Config.DNS; d != nil && d.HostnameFQDN != "" {
		name = d.HostnameFQDN + " " + name
	}
	if r.PrivateIP != "" {
		hosts += r.PrivateIP + "\t" + name + " fly-local-6pn\n"
	} else {
		hosts += "127.0.1.1\t" + name + "\n"
	}
	return []byte(hosts)
}

func (h *Host) resolvConf(r *Record) []byte {
	servers, searches := h.cfg.Nameservers, h.cfg.Searches
	if d := r.Config.DNS; d != nil {
		servers, searches = orSlice(d.Nameservers, servers), orSlice(d.Searches, searches)
	}
	if len(servers) == 0 {
		return nil
	}
	b := ""
	for _, s := range servers {
		b += "nameserver " + s + "\n"
	}
	if len(searches) > 0 {
		b += "search " + strings.Join(searches, " ") + "\n"
	}
	if d := r.Config.DNS; d != nil {
		for _, o := range d.Options {
			b += "options " + strings.TrimSuffix(o.Name+":"+o.Value, ":") + "\n"
		}
	}
	return []byte(b)
}
