package cli

import (
	"os"
	"path"
	"sort"
	"strconv"
	"strings"

	"encoding/base64"

	"github.com/perigee-run/perigee/api"
	"github.com/spf13/cobra"
)

// machineFlags are the flags that shape one machine's configuration.
type machineFlags struct {
	name     string
	noStart  bool
	env      []string
	metadata []string
	ports    []string
	files    []string
	cpus     int
	memory   string
	restart  string
	user     string
	autostop string
}

func (f *machineFlags) register(c *cobra.Command) {
	fl := c.Flags()
	fl.StringArrayVarP(&f.env, "env", "e", nil, "NAME=VALUE for the environment, many times")
	fl.StringArrayVar(&f.metadata, "metadata", nil, "KEY=VALUE, many times")
	fl.StringArrayVarP(&f.ports, "port", "p", nil, "PUBLIC:INTERNAL[/HANDLER+HANDLER], such as 443:8080/http+tls; no handler means raw TCP")
	fl.StringArrayVar(&f.files, "file", nil, "LOCAL:PATH-IN-THE-MACHINE, many times")
	fl.IntVar(&f.cpus, "cpus", 0, "processors (default 1)")
	fl.StringVar(&f.memory, "memory", "", "memory, such as 256mb or 1gb (default 256mb)")
	fl.StringVar(&f.restart, "restart", "", "no, on-failure or always (default on-failure)")
	fl.StringVar(&f.user, "user", "", "user to run as (default: the image's)")
	fl.StringVar(&f.autostop, "auto-stop", "", "what an idle machine does: off, stop or suspend (default off)")
}

// config applies the flags to a configuration.
func (f *machineFlags) config(cfg *api.MachineConfig, image string, cmd []string) (*api.MachineConfig, error) {
	cfg.Image = image
	if len(cmd) > 0 {
		cfg.Init = &api.Init{Cmd: cmd}
	}
	if f.user != "" {
		if cfg.Init == nil {
			cfg.Init = &api.Init{}
		}
		cfg.Init.User = f.user
	}
	if f.restart != "" {
		cfg.Restart = &api.Restart{Policy: f.restart}
	}
	var err error
	if cfg.Env, err = mergePairs("--env", cfg.Env, f.env); err != nil {
		return nil, err
	}
	if cfg.Metadata, err = mergePairs("--metadata", cfg.Metadata, f.metadata); err != nil {
		return nil, err
	}
	if err := f.guest(cfg); err != nil {
		return nil, err
	}
	if err := f.addFiles(cfg); err != nil {
		return nil, err
	}
	return cfg, f.services(cfg)
}

func (f *machineFlags) guest(cfg *api.MachineConfig) error {
	if f.cpus == 0 && f.memory == "" {
		return nil
	}
	if cfg.Guest == nil {
		cfg.Guest = &api.Guest{}
	}
	if f.cpus > 0 {
		cfg.Guest.CPUs = f.cpus
	}
	if f.memory == "" {
		return nil
	}
	mb, err := parseMemory(f.memory)
	cfg.Guest.MemoryMB = mb
	return err
}

func (f *machineFlags) addFiles(cfg *api.MachineConfig) error {
	for _, s := range f.files {
		local, guest, ok := strings.Cut(s, ":")
		if !ok || !path.IsAbs(guest) {
			return hint(usagef("--file %q is not LOCAL:PATH", s), "for example --file app.conf:/etc/app.conf")
		}
		b, err := os.ReadFile(local)
		if err != nil {
			return usageError{err}
		}
		raw := base64.StdEncoding.EncodeToString(b)
		cfg.Files = append(cfg.Files, api.File{GuestPath: guest, RawValue: &raw})
	}
	return nil
}

func (f *machineFlags) services(cfg *api.MachineConfig) error {
	if len(f.ports) > 0 {
		cfg.Services = nil
	}
	for _, s := range f.ports {
		svc, err := parsePort(s)
		if err != nil {
			return err
		}
		if f.autostop != "" {
			stop, start := api.Autostop(f.autostop), true
			svc.Autostop, svc.Autostart = &stop, &start
		}
		cfg.Services = append(cfg.Services, svc)
	}
	return nil
}

func parsePort(s string) (api.Service, error) {
	ports, handlers, _ := strings.Cut(s, "/")
	public, internal, ok := strings.Cut(ports, ":")
	if !ok {
		internal = public
	}
	p, err1 := strconv.Atoi(public)
	i, err2 := strconv.Atoi(internal)
	if err1 != nil || err2 != nil || p < 1 || p > 65535 || i < 1 || i > 65535 {
		return api.Service{}, hint(usagef("--port %q is not PUBLIC:INTERNAL[/HANDLERS]", s), "for example --port 443:8080/http+tls")
	}
	port := api.Port{Port: p}
	if handlers != "" {
		port.Handlers = strings.Split(handlers, "+")
	}
	return api.Service{Protocol: "tcp", InternalPort: i, Ports: []api.Port{port}}, nil
}

func mergePairs(flag string, into map[string]string, pairs []string) (map[string]string, error) {
	for _, p := range pairs {
		k, v, ok := strings.Cut(p, "=")
		if !ok || k == "" {
			return nil, usagef("%s %q is not NAME=VALUE", flag, p)
		}
		if into == nil {
			into = map[string]string{}
		}
		into[k] = v
	}
	return into, nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
