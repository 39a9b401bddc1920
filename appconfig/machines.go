package appconfig

import (
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/perigee-run/perigee/api"
)

const (
	defaultGroup = "app"
	defaultPort  = 8080
	maxFile      = 1 << 20 // bytes of a local file; the node may allow less
)

// Groups are the process groups, sorted; "app" if the file names none.
func (c *Config) Groups() []string {
	if len(c.Processes) == 0 {
		return []string{defaultGroup}
	}
	return slices.Sorted(maps.Keys(c.Processes))
}

// DefaultGroup is the process group of everything that names none: "app", or the
// first in the alphabet if there is no such group.
func (c *Config) DefaultGroup() string {
	groups := c.Groups()
	if slices.Contains(groups, defaultGroup) {
		return defaultGroup
	}
	return groups[0]
}

// members are the groups that a list of process groups means.
func (c *Config) members(processes []string) []string {
	if len(processes) == 0 {
		return []string{c.DefaultGroup()}
	}
	return processes
}

func (c *Config) has(processes []string, group string) bool {
	return slices.Contains(c.members(processes), group)
}

// ReleaseCommand is deploy.release_command in words; none if there is none.
func (c *Config) ReleaseCommand() ([]string, error) {
	words, err := splitWords(c.Deploy.ReleaseCommand)
	if err != nil {
		return nil, fmt.Errorf("cannot split deploy.release_command into words: %w", err)
	}
	return words, nil
}

// MachineConfigs turns a checked configuration into what the machines of each
// process group are to be, without the image. dir is the folder of the
// configuration, where the local files of [[files]] are; an error names one that
// cannot be read.
func MachineConfigs(c *Config, dir string) (map[string]api.MachineConfig, error) {
	out := map[string]api.MachineConfig{}
	for _, g := range c.Groups() {
		m, err := c.machine(g, dir)
		if err != nil {
			return nil, err
		}
		out[g] = m
	}
	return out, nil
}

func (c *Config) machine(group, dir string) (api.MachineConfig, error) {
	m := api.MachineConfig{
		Env:      maps.Clone(map[string]string(c.Env)),
		Metadata: map[string]string{"fly_platform_version": "v2", "fly_process_group": group},
		Services: c.Services(group), Checks: c.checks(group), Mounts: c.mounts(group),
		Restart: c.restart(group), StopConfig: c.stop(), Statics: c.statics(), Metrics: c.metrics(group),
	}
	if m.Env == nil {
		m.Env = map[string]string{}
	}
	m.Env["FLY_PROCESS_GROUP"] = group
	if c.PrimaryRegion != "" {
		m.Env["PRIMARY_REGION"] = c.PrimaryRegion
	}
	var err error
	if m.Init, err = c.init(group); err != nil {
		return m, err
	}
	if m.Guest, err = c.guest(group); err != nil {
		return m, err
	}
	m.Files, err = c.files(group, dir)
	return m, err
}

func (c *Config) init(group string) (*api.Init, error) {
	cmd, err := splitWords(c.Processes[group])
	if err != nil {
		return nil, fmt.Errorf("cannot split processes.%s into words: %w", group, err)
	}
	e := c.Experimental
	in := api.Init{Exec: e.Exec, Entrypoint: e.Entrypoint, Cmd: e.Cmd}
	if len(cmd) > 0 {
		in.Cmd = cmd
	}
	if in.Exec == nil && in.Entrypoint == nil && in.Cmd == nil {
		return nil, nil
	}
	return &in, nil
}

// Services are the group's services: [http_service] first.
func (c *Config) Services(group string) []api.Service {
	var out []api.Service
	if h := c.HTTPService; h != nil && c.has(h.Processes, group) {
		out = append(out, h.service())
	}
	for i := range c.ServiceList {
		if s := &c.ServiceList[i]; c.has(s.Processes, group) {
			out = append(out, s.service())
		}
	}
	return out
}

func (h *HTTPService) service() api.Service {
	s := api.Service{
		Protocol: "tcp", InternalPort: h.InternalPort, Autostop: h.AutoStopMachines, Autostart: h.AutoStartMachines,
		MinMachinesRunning: h.MinMachinesRunning, Concurrency: h.Concurrency.wire(),
		Ports: []api.Port{
			{Port: 80, Handlers: []string{"http"}, ForceHTTPS: h.ForceHTTPS, HTTPOptions: h.HTTPOptions.wire()},
			{Port: 443, Handlers: []string{"tls", "http"}, HTTPOptions: h.HTTPOptions.wire(), TLSOptions: h.TLSOptions.wire()},
		},
	}
	if s.InternalPort == 0 {
		s.InternalPort = defaultPort
	}
	for _, hc := range h.Checks {
		s.Checks = append(s.Checks, hc.wire("http"))
	}
	return s
}

func (s *Service) service() api.Service {
	out := api.Service{
		Protocol: s.Protocol, InternalPort: s.InternalPort, Autostop: s.AutoStopMachines, Autostart: s.AutoStartMachines,
		MinMachinesRunning: s.MinMachinesRunning, Concurrency: s.Concurrency.wire(),
	}
	if out.Protocol == "" {
		out.Protocol = "tcp"
	}
	for _, p := range s.Ports {
		out.Ports = append(out.Ports, p.wire())
	}
	for _, tc := range s.TCPChecks {
		out.Checks = append(out.Checks, HTTPCheck{TCPCheck: tc}.wire("tcp"))
	}
	for _, hc := range s.HTTPChecks {
		out.Checks = append(out.Checks, hc.wire("http"))
	}
	return out
}

func (p Port) wire() api.Port {
	out := api.Port{
		Port: p.Port, StartPort: p.StartPort, EndPort: p.EndPort, Handlers: p.Handlers, ForceHTTPS: p.ForceHTTPS,
		TLSOptions: p.TLSOptions.wire(), HTTPOptions: p.HTTPOptions.wire(),
	}
	if p.ProxyProtoOptions != nil {
		out.ProxyProtoOptions = &api.ProxyProtoOptions{Version: p.ProxyProtoOptions.Version}
	}
	return out
}

func (l *Concurrency) wire() *api.Concurrency {
	if l == nil {
		return nil
	}
	return &api.Concurrency{Type: l.Type, SoftLimit: l.SoftLimit, HardLimit: l.HardLimit}
}

func (t *TLSOptions) wire() *api.TLSOptions {
	if t == nil {
		return nil
	}
	return &api.TLSOptions{ALPN: t.ALPN, Versions: t.Versions, DefaultSelfSigned: t.DefaultSelfSigned}
}

func (o *HTTPOptions) wire() *api.HTTPOptions {
	if o == nil {
		return nil
	}
	out := &api.HTTPOptions{Compress: o.Compress, H2Backend: o.H2Backend, IdleTimeout: o.IdleTimeout, Sticky: o.Sticky, HeadersReadTimeout: o.HeadersReadTimeout}
	if o.Response != nil {
		out.Response = &api.HTTPResponse{Headers: o.Response.Headers, Pristine: o.Response.Pristine}
	}
	return out
}

func (h HTTPCheck) wire(kind string) api.Check {
	c := api.Check{
		Type: kind, Interval: h.Interval, Timeout: h.Timeout, GracePeriod: h.GracePeriod, Method: strings.ToUpper(h.Method),
		Path: h.Path, Protocol: h.Protocol, TLSSkipVerify: h.TLSSkipVerify, TLSServerName: h.TLSServerName,
	}
	for _, name := range slices.Sorted(maps.Keys(h.Headers)) {
		c.Headers = append(c.Headers, api.CheckHeader{Name: name, Values: h.Headers[name]})
	}
	return c
}

func (c *Config) checks(group string) map[string]api.Check {
	out := map[string]api.Check{}
	for name, nc := range c.Checks {
		if !c.has(nc.Processes, group) {
			continue
		}
		check := nc.wire(nc.Type)
		check.Kind, check.Port = nc.Kind, nc.Port
		if s := c.Services(group); check.Port == 0 && len(s) > 0 {
			check.Port = s[0].InternalPort
		}
		out[name] = check
	}
	return out
}

func (c *Config) mounts(group string) (out []api.Mount) {
	for _, m := range c.Mounts {
		if !c.has(m.Processes, group) {
			continue
		}
		size, _ := sizeGB(m.InitialSize) // checked when it was read
		step, _ := sizeGB(m.AutoExtendSizeIncrement)
		limit, _ := sizeGB(m.AutoExtendSizeLimit)
		out = append(out, api.Mount{Name: m.Source, Path: m.Destination, SizeGB: size,
			ExtendThresholdPercent: m.AutoExtendSizeThreshold, AddSizeGB: step, SizeGBLimit: limit,
			SnapshotRetention: m.SnapshotRetention, ScheduledSnapshots: m.ScheduledSnapshots})
	}
	return out
}

// sizeGB reads "10gb", "10" or 10; less than one is one.
func sizeGB(s string) (int, error) {
	if s == "" {
		return 0, nil
	}
	if n, err := strconv.Atoi(s); err == nil && n > 0 && n <= 1<<14 {
		return n, nil
	}
	mb, err := parseMemory(s)
	if err != nil || mb < 1 || !strings.ContainsAny(s, "bBgGmM") {
		return 0, fmt.Errorf("%s is not a size of a volume; write one such as \"10gb\"", show(s))
	}
	return (mb + 1023) / 1024, nil
}

func (c *Config) restart(group string) *api.Restart {
	for _, r := range c.Restart {
		if !c.has(r.Processes, group) {
			continue
		}
		out := &api.Restart{Policy: r.Policy, MaxRetries: r.Retries}
		switch r.Policy {
		case "never":
			out.Policy = "no"
		case "on-fail":
			out.Policy = "on-failure"
		}
		return out
	}
	return nil
}

func (c *Config) stop() *api.StopConfig {
	timeout := c.KillTimeout
	if timeout == nil {
		timeout = c.Experimental.KillTimeout
	}
	if c.KillSignal == "" && timeout == nil {
		return nil
	}
	return &api.StopConfig{Signal: c.KillSignal, Timeout: timeout}
}

func (c *Config) statics() (out []api.Static) {
	for _, s := range c.Statics {
		out = append(out, api.Static{GuestPath: s.GuestPath, URLPrefix: s.URLPrefix, IndexDocument: s.IndexDocument})
	}
	return out
}

func (c *Config) metrics(group string) *api.Metrics {
	for _, m := range c.Metrics {
		if c.has(m.Processes, group) {
			return &api.Metrics{Port: m.Port, Path: m.Path, HTTPS: m.HTTPS}
		}
	}
	return nil
}

// guest is the size of the group's machines: the [[vm]] that names the group,
// else the one that names none.
func (c *Config) guest(group string) (*api.Guest, error) {
	var found *VM
	for i := range c.VM {
		vm := &c.VM[i]
		if slices.Contains(vm.Processes, group) {
			return vm.guest()
		}
		if len(vm.Processes) == 0 {
			found = vm
		}
	}
	if found == nil {
		return nil, nil
	}
	return found.guest()
}

var sizeForm = regexp.MustCompile(`^(shared-cpu|performance)-(1|2|4|8|16)x$`)

func (vm *VM) guest() (*api.Guest, error) {
	g := &api.Guest{CPUKind: "shared", CPUs: 1, MemoryMB: 256, PersistRootfs: vm.PersistRootfs, GPUs: vm.GPUs, GPUKind: vm.GPUKind}
	size, perCPU := vm.Size, 256
	if size == "" && vm.CPUKind == "performance" {
		size = "performance-1x"
	}
	if size != "" {
		m := sizeForm.FindStringSubmatch(size)
		if m == nil || size == "shared-cpu-16x" {
			return nil, fmt.Errorf("%s is not a size; there is shared-cpu-1x to -8x and performance-1x to -16x", show(size))
		}
		g.CPUs, _ = strconv.Atoi(m[2])
		if m[1] == "performance" {
			g.CPUKind, perCPU = "performance", 2048
		}
	}
	if vm.CPUs != 0 {
		g.CPUs = vm.CPUs
	}
	if vm.CPUKind != "" {
		g.CPUKind = vm.CPUKind
	}
	g.MemoryMB = perCPU * g.CPUs
	if mb := max(int(vm.Memory), vm.MemoryMB); mb != 0 {
		g.MemoryMB = mb
	}
	return g, nil
}

func (c *Config) files(group, dir string) ([]api.File, error) {
	var out []api.File
	for _, f := range c.Files {
		if !c.has(f.Processes, group) {
			continue
		}
		file, err := f.wire(dir)
		if err != nil {
			return nil, err
		}
		out = append(out, file)
	}
	return out, nil
}

func (f File) wire(dir string) (api.File, error) {
	out := api.File{GuestPath: f.GuestPath}
	if f.SecretName != "" {
		out.SecretName = &f.SecretName
		return out, nil
	}
	content := []byte(f.RawValue)
	if f.LocalPath != "" {
		var err error
		if content, err = readLocal(dir, f.LocalPath); err != nil {
			return out, fmt.Errorf("cannot put local_path %q at %q: %w", f.LocalPath, f.GuestPath, err)
		}
	}
	raw := base64.StdEncoding.EncodeToString(content)
	out.RawValue = &raw
	return out, nil
}

func readLocal(dir, path string) ([]byte, error) {
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("it has more than %d bytes; put it into the image", maxFile)
	}
	return data, err
}
