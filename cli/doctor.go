package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/internal/exit"
	"github.com/spf13/cobra"
)

// finding is one line of the doctor's report.
type finding struct {
	Name  string `json:"name"`
	OK    bool   `json:"ok"`
	Fatal bool   `json:"fatal"`
	Text  string `json:"text"`
	Cure  string `json:"cure,omitempty"`
}

func doctorCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "Say what this server lacks to run machines, and how to get it", Args: noArgs,
		Example: "  sudo perigee doctor",
		RunE:    func(c *cobra.Command, _ []string) error { return e.doctor(c.Context()) },
	}
}

func (e *env) doctor(ctx context.Context) error {
	found := localFindings()
	found = append(found, e.nodeFindings(ctx)...)
	if e.json {
		if err := e.printJSON(found); err != nil {
			return err
		}
	} else {
		e.printFindings(found)
	}
	for _, f := range found {
		if !f.OK && f.Fatal {
			return exitError{exit.Failure}
		}
	}
	return nil
}

func (e *env) printFindings(found []finding) {
	for _, f := range found {
		mark := e.paint(green, "ok      ")
		if !f.OK && f.Fatal {
			mark = e.paint(red, "missing ")
		} else if !f.OK {
			mark = e.paint(yellow, "warning ")
		}
		fmt.Fprintf(e.Out, "%s %-16s %s\n", mark, f.Name, plainText(f.Text))
		if !f.OK && f.Cure != "" {
			fmt.Fprintf(e.Out, "         %-16s cure: %s\n", "", f.Cure)
		}
	}
}

// localFindings looks at this machine. A check that is new goes here.
func localFindings() []finding {
	if runtime.GOOS != "linux" {
		return []finding{{Name: "system", Text: "this is " + runtime.GOOS, Cure: "nodes run on Linux; reach one with --addr"}}
	}
	return []finding{
		checkRoot(), checkKernel(), checkUserNamespaces(), checkCgroups(), checkFilesystem("overlay", "builds and kept file systems need it"),
		checkFilesystem("erofs", "machines that keep their file system need it"), checkProgram("perigeed"), checkProgram("perigee-sandbox"),
		checkMemory(), checkForwarding(), checkPort(80), checkPort(443),
	}
}

func checkRoot() finding {
	f := finding{Name: "root", Fatal: true, OK: os.Geteuid() == 0, Text: "this user may make namespaces and mounts"}
	if !f.OK {
		f.Text, f.Cure = "not root", "run perigee up with sudo"
	}
	return f
}

func checkKernel() finding {
	b, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	release := strings.TrimSpace(string(b))
	f := finding{Name: "kernel", Fatal: true, Text: "Linux " + release}
	var major, minor int
	_, err := fmt.Sscanf(release, "%d.%d", &major, &minor)
	f.OK = err == nil && (major > 5 || major == 5 && minor >= 4)
	if !f.OK {
		f.Cure = "use a kernel of 5.4 or later"
	}
	return f
}

// checkUserNamespaces looks for what each sandbox begins with.
func checkUserNamespaces() finding {
	f := finding{Name: "user namespaces", Fatal: true, OK: true, Text: "sandboxes can have one each"}
	b, err := os.ReadFile("/proc/sys/user/max_user_namespaces")
	if err != nil || strings.TrimSpace(string(b)) == "0" {
		f.OK, f.Text, f.Cure = false, "the kernel allows none", "sysctl user.max_user_namespaces=15000, or a kernel with CONFIG_USER_NS"
	}
	return f
}

func checkCgroups() finding {
	f := finding{Name: "cgroups", Fatal: true}
	switch {
	case isFile("/sys/fs/cgroup/cgroup.controllers"):
		b, _ := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
		f.OK, f.Text = true, "version 2: "+strings.TrimSpace(string(b))
		for _, c := range []string{"cpu", "memory", "pids"} {
			if !strings.Contains(" "+strings.TrimSpace(string(b))+" ", " "+c+" ") {
				f.OK, f.Cure = false, "enable the "+c+" controller (kernel parameter cgroup_enable="+c+")"
			}
		}
	case isDir("/sys/fs/cgroup/memory") && isDir("/sys/fs/cgroup/cpu"):
		f.OK, f.Text = true, "version 1"
	default:
		f.Text, f.Cure = "no cgroup hierarchy under /sys/fs/cgroup", "mount one: mount -t cgroup2 none /sys/fs/cgroup"
	}
	return f
}

func isDir(p string) bool { fi, err := os.Stat(p); return err == nil && fi.IsDir() }

func checkFilesystem(name, why string) finding {
	f := finding{Name: name, Text: "the kernel has it"}
	b, _ := os.ReadFile("/proc/filesystems")
	f.OK = strings.Contains(string(b), "\t"+name+"\n")
	if !f.OK {
		release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
		m, _ := filepath.Glob("/lib/modules/" + strings.TrimSpace(string(release)) + "/kernel/fs/" + name + "*/*.ko*")
		f.OK = len(m) > 0
	}
	if !f.OK {
		f.Text, f.Cure = "not in this kernel; "+why, "modprobe "+name+", or a kernel with CONFIG_"+strings.ToUpper(name)+"_FS"
	}
	return f
}

func checkProgram(name string) finding {
	f := finding{Name: name, Fatal: true, OK: true}
	if p, err := daemonProgram(); err == nil {
		if q := filepath.Join(filepath.Dir(p), name); isFile(q) {
			f.Text = q
			return f
		}
	}
	f.OK, f.Text, f.Cure = false, "not found beside perigee or in PATH", "make install, in Perigee's source"
	return f
}

func checkMemory() finding {
	f := finding{Name: "memory", OK: true}
	b, _ := os.ReadFile("/proc/meminfo")
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			kb, _ := strconv.Atoi(strings.Fields(v)[0])
			f.Text = bytesText(int64(kb)*1024) + " available"
			if kb < 400<<10 {
				f.OK, f.Cure = false, "a node wants about 150 MB for itself and 30 to 300 MB for each running machine; add memory or swap"
			}
		}
	}
	return f
}

func checkForwarding() finding {
	b, _ := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
	f := finding{Name: "forwarding", OK: true, Text: "IPv4 forwarding is on"}
	if strings.TrimSpace(string(b)) != "1" {
		f.Text = "IPv4 forwarding is off; the node turns it on when it starts"
	}
	return f
}

func checkPort(port int) finding {
	f := finding{Name: fmt.Sprintf("port %d", port), OK: true, Text: "free"}
	l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
	if err == nil {
		l.Close()
		return f
	}
	if errors.Is(err, os.ErrPermission) {
		f.Text = "not checked: needs root"
		return f
	}
	f.OK, f.Text, f.Cure = false, "in use by another program, or by a node that runs already", fmt.Sprintf("stop it, or choose another address: perigee up --%s 127.0.0.1:8%03d", map[int]string{80: "http", 443: "https"}[port], port)
	return f
}

// nodeFindings asks the node, where one runs, what it found itself.
func (e *env) nodeFindings(ctx context.Context) []finding {
	client, err := e.client()
	if err != nil {
		return nil
	}
	n, err := client.Node(ctx)
	if err != nil {
		return []finding{{Name: "node", OK: false, Text: "no node answers here", Cure: "sudo perigee up"}}
	}
	out := []finding{{Name: "node", OK: true, Text: fmt.Sprintf("%s in region %s, %s", n.Name, n.Region, count(n.Machines, "machine"))}}
	for _, p := range n.Problems {
		out = append(out, fromProblem(p))
	}
	return out
}

func fromProblem(p api.Problem) finding {
	return finding{Name: p.Name, Text: p.Fault, Cure: p.Cure, Fatal: p.Fatal}
}
