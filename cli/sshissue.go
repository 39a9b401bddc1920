package cli

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/spf13/cobra"
	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// issueFlags say what a certificate is to be good for, and where it goes.
type issueFlags struct {
	org      string
	users    []string
	hours    int
	agent    bool
	machines []string
}

func sshIssueCmd(e *env) *cobra.Command {
	var f issueFlags
	c := &cobra.Command{
		Use: "issue [FILE]", Short: "Get a certificate for stock ssh, scp and sftp", Args: maxArgs(1),
		Long: `Get a certificate that lets stock ssh, scp and sftp into machines: into those of
--app, else into all of --org. FILE (default ~/.ssh/perigee) becomes the private
key, unless it is there already; beside it come FILE-cert.pub, FILE.known_hosts
and FILE.conf, which tells ssh how to reach machines. The certificate ends by
itself; run the command again for the next one.

With --agent the key goes into the running ssh-agent instead and is written
nowhere; it leaves the agent when the certificate ends.`,
		Example: "  perigee ssh issue --app shop\n  ssh -F ~/.ssh/perigee.conf root@shop.internal\n  perigee ssh config --install   # plain ssh knows it from then on\n  ssh root@shop.internal\n  scp notes.txt root@3d8d9014b32789.vm.shop.internal:/tmp/",
		RunE: func(c *cobra.Command, args []string) error {
			path, err := keyFile(args)
			if err != nil {
				return err
			}
			if f.agent && len(args) > 0 {
				return usagef("--agent keeps the key in the agent, and FILE in a file")
			}
			return e.issue(c.Context(), f, path)
		},
	}
	fl := c.Flags()
	fl.StringVarP(&f.org, "org", "o", "personal", "org whose machines it opens, where no --app is given")
	fl.StringSliceVarP(&f.users, "user", "u", []string{"root"}, "users of the machines that it may become")
	fl.StringSliceVarP(&f.machines, "machine", "m", nil, "only these machines")
	fl.IntVar(&f.hours, "hours", 24, "how long it lasts, 1 to 72")
	fl.BoolVar(&f.agent, "agent", false, "add it to the running ssh-agent")
	return c
}

// keyFile is the private key's file.
func keyFile(args []string) (string, error) {
	if len(args) > 0 {
		return filepath.Abs(args[0])
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("cannot find the folder of ssh: %w", err)
	}
	return filepath.Join(home, ".ssh", "perigee"), nil
}

func (e *env) issue(ctx context.Context, f issueFlags, path string) error {
	client, err := e.client()
	if err != nil {
		return err
	}
	private, err := keyFor(f, path)
	if err != nil {
		return err
	}
	signer, err := gossh.NewSignerFromKey(private)
	if err != nil {
		return err
	}
	req := api.SSHCertificateRequest{PublicKey: string(gossh.MarshalAuthorizedKey(signer.PublicKey())), Principals: f.users, Machines: f.machines, ValidHours: f.hours}
	var made api.SSHCertificate
	if e.app != "" {
		made, err = client.IssueSSHCertificate(ctx, e.app, req)
	} else {
		made, err = client.IssueOrgSSHCertificate(ctx, f.org, req)
	}
	if err != nil {
		return e.explain(err)
	}
	if f.agent {
		return e.toAgent(private, made)
	}
	return e.toFiles(path, private, made)
}

// keyFor is the key of the file, or a new one.
func keyFor(f issueFlags, path string) (ed25519.PrivateKey, error) {
	b, err := os.ReadFile(path)
	if f.agent || errors.Is(err, fs.ErrNotExist) {
		_, k, err := ed25519.GenerateKey(rand.Reader)
		return k, err
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the key: %w", err)
	}
	raw, err := gossh.ParseRawPrivateKey(b)
	if k, ok := raw.(*ed25519.PrivateKey); ok {
		return *k, nil
	}
	if err == nil {
		err = errors.New("it is no ed25519 key")
	}
	return nil, hint(fmt.Errorf("cannot use %s as the key: %w", path, err), "name another FILE; one that is not there is made")
}

func (e *env) toAgent(private ed25519.PrivateKey, made api.SSHCertificate) error {
	sock := os.Getenv("SSH_AUTH_SOCK")
	conn, err := net.Dial("unix", sock)
	if err != nil {
		return hint(fmt.Errorf("cannot reach the ssh-agent (SSH_AUTH_SOCK=%q): %w", sock, err), "start one: eval $(ssh-agent)")
	}
	defer conn.Close()
	cert, err := parseKey(made.Certificate)
	if err != nil {
		return err
	}
	c, ok := cert.(*gossh.Certificate)
	if !ok {
		return errors.New("cannot use the node's answer: it is a key and no certificate")
	}
	left := uint32(max(1, time.Until(made.ExpiresAt)/time.Second))
	err = agent.NewClient(conn).Add(agent.AddedKey{PrivateKey: &private, Certificate: c, Comment: "perigee", LifetimeSecs: left})
	if err != nil {
		return fmt.Errorf("cannot add the certificate to the ssh-agent: %w", err)
	}
	if e.json {
		return e.printJSON(made)
	}
	return e.did("the ssh-agent has a certificate for %s until %s", scopeOf(made), made.ExpiresAt.Local().Format(time.RFC1123))
}

func scopeOf(c api.SSHCertificate) string {
	switch {
	case len(c.Machines) > 0:
		return "machine " + strings.Join(c.Machines, ", ")
	case len(c.Apps) > 0:
		return "app " + strings.Join(c.Apps, ", ")
	}
	return "all apps of the org"
}

func (e *env) toFiles(path string, private ed25519.PrivateKey, made api.SSHCertificate) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		block, err := gossh.MarshalPrivateKey(private, "perigee")
		if err != nil {
			return err
		}
		if err := writeWhole(path, pem.EncodeToMemory(block)); err != nil {
			return err
		}
	}
	conf, err := e.sshConfig(path)
	if err != nil {
		return err
	}
	for _, f := range []struct{ name, text string }{
		{path + "-cert.pub", made.Certificate + "\n"}, {path + ".known_hosts", "@cert-authority *.internal " + made.HostAuthority + "\n"}, {path + ".conf", conf},
	} {
		if err := writeWhole(f.name, []byte(f.text)); err != nil {
			return err
		}
	}
	if e.json {
		return e.printJSON(made)
	}
	if err := e.did("%s opens %s until %s", path, scopeOf(made), made.ExpiresAt.Local().Format(time.RFC1123)); err != nil {
		return err
	}
	_, err = fmt.Fprintf(e.Out, "  ssh -F %s.conf root@APP.internal\n  perigee ssh config --install lets plain ssh, scp and sftp know it\n", path)
	return err
}

// writeWhole writes a file that only its owner reads, all of it or nothing, also
// across a power cut. Where a link stands, what it leads to is written: people keep
// such files in folders of their own.
func writeWhole(path string, b []byte) error {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // nothing, once it has its name
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return os.Rename(f.Name(), path)
}

func sshConfigCmd(e *env) *cobra.Command {
	install := false
	c := &cobra.Command{
		Use: "config [FILE]", Short: "Show how stock ssh reaches machines", Args: maxArgs(1),
		Long: `Show the part of ssh's configuration with which ssh, scp and sftp reach machines
by names such as root@shop.internal, with the certificate that perigee ssh issue
has put beside FILE (default ~/.ssh/perigee). With --install one line in
~/.ssh/config includes it.`,
		Example: "  perigee ssh config --install\n  sftp root@3d8d9014b32789.vm.shop.internal",
		RunE: func(_ *cobra.Command, args []string) error {
			path, err := keyFile(args)
			if err != nil {
				return err
			}
			if install {
				return e.installConfig(path)
			}
			text, err := e.sshConfig(path)
			if err == nil {
				_, err = io.WriteString(e.Out, text)
			}
			return err
		},
	}
	c.Flags().BoolVar(&install, "install", false, "have ~/.ssh/config include it")
	return c
}

// sshConfig is the part of ssh's configuration that is about machines. The token
// is not in it: the command that it names finds it as it always does.
func (e *env) sshConfig(path string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	proxy := quoteWord(self) + " ssh proxy"
	if addr := first(e.addr, os.Getenv("PERIGEE_ADDR")); addr != "" {
		proxy += " --addr " + quoteWord(addr)
	}
	return fmt.Sprintf(`# Machines of Perigee: ssh root@ID.vm.APP.internal, or root@APP.internal
Host *.internal
    User root
    IdentityFile "%[1]s"
    CertificateFile "%[1]s-cert.pub"
    IdentitiesOnly yes
    UserKnownHostsFile "%[1]s.known_hosts"
    HostKeyAlgorithms ssh-ed25519-cert-v01@openssh.com
    ProxyCommand %[2]s '%%h'
`, path, proxy), nil
}

// quoteWord quotes a word for the shell that runs a ProxyCommand.
func quoteWord(s string) string {
	s = strings.ReplaceAll(s, "%", "%%")
	if strings.IndexFunc(s, func(r rune) bool {
		return !strings.ContainsRune("/.-_:@%", r) && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	}) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// installConfig puts a line at the head of ~/.ssh/config, where ssh takes what it
// finds first.
func (e *env) installConfig(path string) error {
	if _, err := os.Stat(path + ".conf"); err != nil {
		return hint(fmt.Errorf("there is no %s.conf yet", path), "perigee ssh issue makes it")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return err
	}
	own := filepath.Join(home, ".ssh", "config")
	line := fmt.Sprintf("Include \"%s.conf\"\n", path)
	b, err := os.ReadFile(own)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if !strings.Contains(string(b), line) {
		if err := writeWhole(own, append([]byte(line), b...)); err != nil {
			return err
		}
	}
	return e.did("%s includes %s.conf", own, path)
}

func sshProxyCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "proxy HOST", Short: "Carry the bytes of stock ssh to a machine, as its ProxyCommand", Args: exactArgs("HOST"),
		Long: `Carry what ssh says to a machine's SSH server, over the API. HOST is
ID.vm.APP.internal, or APP.internal for the first machine that runs. It is the
ProxyCommand of what perigee ssh config shows.`,
		Example: "  ssh -o ProxyCommand='perigee ssh proxy %h' root@shop.internal",
		RunE: func(c *cobra.Command, args []string) error {
			app, id, err := sshHost(args[0])
			if err != nil {
				return err
			}
			client, err := e.client()
			if err != nil {
				return err
			}
			return e.sshProxy(c.Context(), client, app, id)
		},
	}
}

func (e *env) sshProxy(ctx context.Context, client *api.Client, app, id string) error {
	id, err := e.execTarget(ctx, client, app, id)
	if err != nil {
		return e.explain(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, err := client.SSH(ctx, app, id)
	if err != nil {
		return e.explain(err)
	}
	defer conn.Close()
	go func() {
		_, _ = io.Copy(conn, e.In)
		cancel() // ssh has gone
	}()
	if _, err := io.Copy(e.Out, conn); err != nil && ctx.Err() == nil && !errors.Is(err, io.EOF) {
		return unreachable{fmt.Errorf("the connection to machine %s broke off: %w", id, err)}
	}
	return nil
}
