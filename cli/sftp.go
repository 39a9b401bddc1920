package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pkg/sftp"
	"github.com/spf13/cobra"
	gossh "golang.org/x/crypto/ssh"
)

func sftpCmd(e *env) *cobra.Command {
	c := parent("sftp", "Move files into and out of machines", nil, sftpGetCmd(e), sftpPutCmd(e), sftpLsCmd(e), sftpFindCmd(e), sftpShellCmd(e))
	c.Long = `Move files into and out of machines, also of images without a shell. Paths of the
machine that do not begin with / are meant from the user's home on.`
	return c
}

// remote is a machine's files.
type remote struct {
	*sftp.Client
	conn *gossh.Client
	env  *env
	quit context.CancelFunc
}

// sftpInto opens the files of a machine. They close when ctx ends.
func (e *env) sftpInto(ctx context.Context, f sshFlags) (*remote, error) {
	conn, err := e.sshInto(ctx, f)
	if err != nil {
		return nil, err
	}
	files, err := sftp.NewClient(conn, sftp.UseConcurrentWrites(true))
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("cannot reach the machine's files: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	return &remote{files, conn, e, func() { stop() }}, nil
}

// Close ends the connection.
func (r *remote) Close() error {
	r.quit()
	r.Client.Close()
	return r.conn.Close()
}

// withFiles is the body of a command that works on a machine's files.
func (e *env) withFiles(f *sshFlags, do func(r *remote, args []string) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, args []string) error {
		r, err := e.sftpInto(c.Context(), *f)
		if err != nil {
			return err
		}
		defer r.Close()
		if err := do(r, args); err != nil {
			if c.Context().Err() != nil {
				return c.Context().Err()
			}
			return err
		}
		return nil
	}
}

// between wants FROM and maybe TO.
func between(from, to string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return exactArgs(from, to)(c, args)
		}
		return maxArgs(2)(c, args)
	}
}

func sftpGetCmd(e *env) *cobra.Command {
	var f sshFlags
	recursive := false
	c := &cobra.Command{Use: "get REMOTE [LOCAL]", Short: "Copy a file from a machine", Args: between("REMOTE", "LOCAL"),
		Long: `Copy a file of a machine, or with --recursive a folder, to LOCAL (default: here,
under its own name). Its mode and time come with it. What is there is replaced,
once the copy is whole.`,
		Example: "  perigee ssh sftp get /etc/app.conf -a shop\n  perigee ssh sftp get -r /data backup -a shop",
		RunE: e.withFiles(&f, func(r *remote, args []string) error {
			to := path.Base(args[0])
			if len(args) > 1 {
				to = args[1]
			}
			return r.get(args[0], into(to, path.Base(args[0]), os.Stat), recursive)
		})}
	f.where(c)
	c.Flags().BoolVarP(&recursive, "recursive", "r", false, "a folder with all that is in it")
	return c
}

func sftpPutCmd(e *env) *cobra.Command {
	var f sshFlags
	recursive := false
	c := &cobra.Command{Use: "put LOCAL [REMOTE]", Short: "Copy a file to a machine", Args: between("LOCAL", "REMOTE"),
		Long: `Copy a file, or with --recursive a folder, to a machine, to REMOTE (default: the
home, under its own name). Its mode comes with it. A new file appears when it is
whole; one that is there is written over.`,
		Example: "  perigee ssh sftp put app.conf /etc/app.conf -a shop\n  perigee ssh sftp put -r public /srv/public -a shop",
		RunE: e.withFiles(&f, func(r *remote, args []string) error {
			to := filepath.Base(args[0])
			if len(args) > 1 {
				to = args[1]
			}
			return r.put(args[0], into(to, filepath.Base(args[0]), r.Stat), recursive)
		})}
	f.where(c)
	c.Flags().BoolVarP(&recursive, "recursive", "r", false, "a folder with all that is in it")
	return c
}

// into is the path for a copy: in a folder that is there it keeps its name.
func into(to, name string, stat func(string) (fs.FileInfo, error)) string {
	if i, err := stat(to); err == nil && i.IsDir() {
		return path.Join(filepath.ToSlash(to), name)
	}
	return to
}

// entry is a file of a machine, as --json prints it.
type entry struct {
	Path    string    `json:"path"`
	Size    int64     `json:"size"`
	Mode    string    `json:"mode"`
	ModTime time.Time `json:"modified"`
	Dir     bool      `json:"directory"`
}

func entryOf(p string, i fs.FileInfo) entry {
	return entry{p, i.Size(), i.Mode().String(), i.ModTime().UTC(), i.IsDir()}
}

func (r *remote) print(list []entry) error {
	if r.env.json {
		return r.env.printJSON(list)
	}
	var rows [][]string
	for _, x := range list {
		rows = append(rows, []string{x.Mode, bytesText(x.Size), x.ModTime.Format("2006-01-02 15:04"), x.Path})
	}
	return r.env.table([]string{"MODE", "SIZE", "MODIFIED", "PATH"}, rows)
}

func sftpLsCmd(e *env) *cobra.Command {
	var f sshFlags
	c := &cobra.Command{Use: "ls [PATH]", Short: "List files of a machine", Args: maxArgs(1), Example: "  perigee ssh sftp ls /app -a shop",
		RunE: e.withFiles(&f, func(r *remote, args []string) error {
			list, err := r.list(at(args, "."))
			if err != nil {
				return err
			}
			return r.print(list)
		})}
	f.where(c)
	return c
}

func at(args []string, def string) string {
	if len(args) > 0 {
		return args[0]
	}
	return def
}

// list is what a folder holds, or the file itself.
func (r *remote) list(p string) ([]entry, error) {
	i, err := r.Stat(p)
	if err != nil {
		return nil, fault("list", p, err)
	}
	if !i.IsDir() {
		return []entry{entryOf(p, i)}, nil
	}
	infos, err := r.ReadDir(p)
	if err != nil {
		return nil, fault("list", p, err)
	}
	out := []entry{}
	for _, i := range infos {
		out = append(out, entryOf(i.Name(), i))
	}
	slices.SortFunc(out, func(a, b entry) int { return strings.Compare(a.Path, b.Path) })
	return out, nil
}

func sftpFindCmd(e *env) *cobra.Command {
	var f sshFlags
	c := &cobra.Command{Use: "find [PATH]", Short: "List all files below a folder of a machine", Args: maxArgs(1), Example: "  perigee ssh sftp find /app -a shop",
		RunE: e.withFiles(&f, func(r *remote, args []string) error {
			enc := json.NewEncoder(r.env.Out)
			for w := r.Walk(at(args, ".")); w.Step(); {
				if err := w.Err(); err != nil {
					return fault("walk", w.Path(), err)
				}
				var err error
				if r.env.json {
					err = enc.Encode(entryOf(w.Path(), w.Stat()))
				} else {
					_, err = fmt.Fprintln(r.env.Out, r.env.shown(w.Path()))
				}
				if err != nil {
					return err
				}
			}
			return nil
		})}
	f.where(c)
	return c
}

// fault says which path an error is about.
func fault(what, p string, err error) error {
	return fmt.Errorf("cannot %s %q: %w", what, p, err)
}
