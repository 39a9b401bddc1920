//go:build linux

package space

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Config says what the host is called. The zero value is useful.
type Config struct {
	// Hostname is what programs see. Default: the real one.
	Hostname string
	// ResolvConf is a file that programs see as /etc/resolv.conf. Default: the
	// real one.
	ResolvConf string
	// Log is where process 1 says what went wrong. Default: nowhere.
	Log io.Writer
}

// Space is a host's namespaces. Its methods may be called from anywhere.
type Space struct {
	jobs  chan func()
	ended chan struct{}
	init  *exec.Cmd

	close sync.Once
	mu    sync.RWMutex // guards closed against jobs under way
	dead  bool
}

// New makes the namespaces. The network has nothing but a loopback device.
func New(cfg Config) (*Space, error) {
	// Go tries out process handles with a child of its own when the first process
	// is started; in the new namespace that child would be process 1.
	if p, err := os.FindProcess(os.Getpid()); err == nil {
		_ = p.Release()
	}
	s := &Space{jobs: make(chan func()), ended: make(chan struct{})}
	ready := make(chan error)
	go onOwnThread(func() { s.live(cfg, ready) })
	if err := <-ready; err != nil {
		<-s.ended
		return nil, err
	}
	return s, nil
}

// onOwnThread runs f on a thread that ends with it. The program's first thread
// cannot end: where f would run on that one, it is moved.
func onOwnThread(f func()) {
	runtime.LockOSThread() // and never unlock
	if unix.Gettid() != unix.Getpid() {
		f()
		return
	}
	done := make(chan struct{})
	go func() { // cannot run here while this goroutine has the thread
		defer close(done)
		onOwnThread(f)
	}()
	<-done
	runtime.UnlockOSThread()
}

// live is what the thread does; with its end process 1 ends.
func (s *Space) live(cfg Config, ready chan<- error) {
	defer close(s.ended)
	err := s.enter(cfg)
	ready <- err
	if err != nil {
		return
	}
	for job := range s.jobs {
		job()
	}
	_ = s.init.Process.Kill()
	_ = s.init.Wait() // returns when the kernel has ended all others too
}

func (s *Space) enter(cfg Config) error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWUTS); err != nil {
		return fmt.Errorf("cannot make namespaces: %w: run as root", err)
	}
	// What is mounted outside is seen here, and not the other way round.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("cannot keep mounts apart: %w", err)
	}
	if cfg.Hostname != "" {
		if err := unix.Sethostname([]byte(cfg.Hostname)); err != nil {
			return fmt.Errorf("cannot set host name %q: %w", cfg.Hostname, err)
		}
	}
	if err := bindResolvConf(cfg.ResolvConf); err != nil {
		return err
	}
	if err := settle(); err != nil {
		return err
	}
	return s.startInit(cfg.Log)
}

func bindResolvConf(file string) error {
	if file == "" {
		return nil
	}
	target, err := filepath.EvalSymlinks("/etc/resolv.conf")
	if err != nil {
		return fmt.Errorf("cannot replace /etc/resolv.conf: %w: make it, an empty file will do", err)
	}
	if err := unix.Mount(file, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("cannot put %q in place of /etc/resolv.conf: %w", file, err)
	}
	return nil
}

// settle sets the new network up the way an end host is: a loopback device, and
// no forwarding, which it may have inherited.
func settle() error {
	for name, value := range map[string]string{
		"net/ipv4/ip_forward": "0", "net/ipv6/conf/all/forwarding": "0",
		"net/ipv6/conf/all/disable_ipv6": "0", "net/ipv6/conf/default/disable_ipv6": "0",
		"net/ipv4/conf/all/rp_filter": "0", "net/ipv4/conf/default/rp_filter": "0",
		"net/ipv4/ping_group_range": "0 2147483647",
	} {
		if err := os.WriteFile("/proc/sys/"+name, []byte(value), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("cannot set %s: %w: run as root, with /proc/sys writable", strings.ReplaceAll(name, "/", "."), err)
		}
	}
	return bringUp("lo")
}

// initScript is process 1: it waits for a child that never ends, and so takes
// leave of all processes that lost their parent. A shell does it in a megabyte.
const initScript = `trap '' TERM INT HUP
mount -t proc proc /proc || exit 1
echo up
while :; do sleep 2147483647 & wait; done`

func (s *Space) startInit(log io.Writer) error {
	s.init = exec.Command("/bin/sh", "-c", initScript)
	s.init.Dir, s.init.Stderr = "/", log
	// Go also lets a child with a death signal kill itself if it does not see its
	// parent, which is outside of the namespace here: process 1 ignores that.
	s.init.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setsid: true}
	out, err := s.init.StdoutPipe()
	if err != nil {
		return err
	}
	if err := s.init.Start(); err != nil {
		return fmt.Errorf("cannot start process 1 of the host: %w", err)
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		_ = s.init.Process.Kill()
		_ = s.init.Wait()
		return errors.New("cannot mount /proc for the host: run as root, outside of a container that hides parts of /proc")
	}
	return nil
}

// Pid is that of the host's process 1, as seen from outside: Enter wants it.
func (s *Space) Pid() int { return s.init.Process.Pid }

// ErrClosed is what all methods return after Close.
var ErrClosed = errors.New("the host is gone")

// Do runs f on the thread in the namespaces, one at a time. f must not wait for
// long.
func (s *Space) Do(f func() error) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.dead {
		return ErrClosed
	}
	done := make(chan error, 1)
	s.jobs <- func() { done <- f() }
	return <-done
}

// Close ends every process of the host and frees its namespaces.
func (s *Space) Close() {
	s.close.Do(func() {
		s.mu.Lock()
		s.dead = true
		s.mu.Unlock()
		close(s.jobs)
	})
	<-s.ended
}
