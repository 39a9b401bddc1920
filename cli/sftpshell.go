package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

func sftpShellCmd(e *env) *cobra.Command {
	var f sshFlags
	c := &cobra.Command{Use: "shell", Short: "Walk through the files of a machine", Args: noArgs,
		Long: `Walk through the files of a machine. Commands come from the terminal, or from
standard input: there the first that fails ends it. They are:

` + sftpHelp(),
		Example: "  perigee ssh sftp shell -a shop\n  printf 'cd /app\\nput new.conf\\nchmod 600 new.conf\\n' | perigee ssh sftp shell -a shop",
		RunE:    e.withFiles(&f, func(r *remote, _ []string) error { return r.walk() })}
	f.where(c)
	return c
}

// place is where a shell is.
type place struct {
	*remote
	dir string
}

// sftpVerb is one command of the shell.
type sftpVerb struct {
	usage    string
	min, max int // arguments
	do       func(p *place, a []string) error
}

var sftpVerbs = map[string]sftpVerb{
	"ls": {"ls [-l] [PATH]", 0, 2, func(p *place, a []string) error {
		a = slices.DeleteFunc(a, func(s string) bool { return s == "-l" }) // it is always long
		list, err := p.list(p.path(at(a, ".")))
		if err != nil {
			return err
		}
		return p.print(list)
	}},
	"cd":  {"cd [PATH]", 0, 1, (*place).cd},
	"pwd": {"pwd", 0, 0, func(p *place, _ []string) error { _, err := fmt.Fprintln(p.env.Out, p.env.shown(p.dir)); return err }},
	"cat": {"cat PATH", 1, 1, func(p *place, a []string) error {
		f, err := p.Open(p.path(a[0]))
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = f.WriteTo(p.env.Out)
		return err
	}},
	"get": {"get REMOTE [LOCAL]", 1, 2, func(p *place, a []string) error {
		return p.get(p.path(a[0]), at(a[1:], path.Base(a[0])), true)
	}},
	"put": {"put LOCAL [REMOTE]", 1, 2, func(p *place, a []string) error {
		return p.put(a[0], into(p.path(at(a[1:], filepath.Base(a[0]))), filepath.Base(a[0]), p.Stat), true)
	}},
	"mkdir": {"mkdir PATH", 1, 1, func(p *place, a []string) error { return p.MkdirAll(p.path(a[0])) }},
	"rmdir": {"rmdir PATH", 1, 1, func(p *place, a []string) error { return p.RemoveDirectory(p.path(a[0])) }},
	"rm":    {"rm PATH", 1, 1, func(p *place, a []string) error { return p.Remove(p.path(a[0])) }},
	"mv":    {"mv FROM TO", 2, 2, func(p *place, a []string) error { return p.PosixRename(p.path(a[0]), p.path(a[1])) }},
	"ln":    {"ln TARGET LINK", 2, 2, func(p *place, a []string) error { return p.Symlink(a[0], p.path(a[1])) }},
	"chmod": {"chmod MODE PATH", 2, 2, func(p *place, a []string) error {
		mode, err := strconv.ParseUint(a[0], 8, 12)
		if err != nil {
			return fmt.Errorf("%q is no mode such as 644", a[0])
		}
		return p.Chmod(p.path(a[1]), fs.FileMode(mode))
	}},
}

func sftpHelp() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(sftpVerbs)) {
		b.WriteString("  " + sftpVerbs[name].usage + "\n")
	}
	return b.String() + "  exit"
}

func (p *place) path(s string) string {
	if path.IsAbs(s) {
		return path.Clean(s)
	}
	return path.Join(p.dir, s)
}

func (p *place) cd(a []string) error {
	to := p.path(at(a, "/"))
	if len(a) == 0 {
		home, err := p.Getwd()
		if err != nil {
			return err
		}
		to = home
	}
	i, err := p.Stat(to)
	if err != nil {
		return err
	}
	if !i.IsDir() {
		return errors.New("it is no folder")
	}
	p.dir = to
	return nil
}

// walk takes commands until there are no more.
func (r *remote) walk() error {
	home, err := r.Getwd()
	if err != nil {
		return err
	}
	p, lines, asks := &place{r, home}, bufio.NewScanner(r.env.In), r.env.asks()
	for {
		if asks {
			fmt.Fprintf(r.env.Err, "%s> ", plain(p.dir))
		}
		if !lines.Scan() {
			return lines.Err()
		}
		words, err := wordsOf(lines.Text())
		if err == nil && len(words) > 0 && (words[0] == "exit" || words[0] == "quit") {
			return nil
		}
		if err == nil && len(words) > 0 {
			err = p.do(words[0], words[1:])
		}
		if err != nil && !asks {
			return err
		}
		if err != nil {
			fmt.Fprintln(r.env.Err, r.env.paint(red, "Error:"), plainText(err.Error()))
		}
	}
}

func (p *place) do(name string, args []string) error {
	if name == "help" || name == "?" {
		_, err := fmt.Fprintln(p.env.Out, sftpHelp())
		return err
	}
	v, ok := sftpVerbs[name]
	if !ok {
		return fmt.Errorf("there is no command %q; help lists them", name)
	}
	if len(args) < v.min || len(args) > v.max {
		return fmt.Errorf("usage: %s", v.usage)
	}
	if err := v.do(p, args); err != nil {
		return fmt.Errorf("cannot %s: %w", strings.Join(append([]string{name}, args...), " "), err)
	}
	return nil
}

// wordsOf splits a line at spaces. Quotes keep what they enclose together.
func wordsOf(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	quote, begun := rune(0), false
	for _, c := range line {
		switch {
		case quote == 0 && (c == '"' || c == '\''):
			quote, begun = c, true
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == ' ' || c == '\t'):
			if begun {
				words, begun = append(words, word.String()), false
				word.Reset()
			}
		default:
			begun = true
			word.WriteRune(c)
		}
	}
	if quote != 0 {
		return nil, errors.New("a quote is not closed")
	}
	if begun {
		words = append(words, word.String())
	}
	return words, nil
}
