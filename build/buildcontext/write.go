// Package buildcontext carries the folder that a build is made from: Write packs it into a tar on the client's side,
// Read unpacks it on the node's. It imports nothing heavy and builds on every system. It does not build.
package buildcontext

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

// DefaultDockerfile is the name that an empty one stands for.
const DefaultDockerfile = "Dockerfile"

// Write sends the folder dir as a tar to w, in the order of the names, without what .dockerignore excludes. A
// <dockerfile>.dockerignore takes the place of .dockerignore, as with Docker. The Dockerfile (a path in dir, empty for
// the default) and the ignore files are sent even when they are excluded, because the builder reads them. Owners are
// not sent and times are cut to seconds, so the same folder gives the same bytes. Links are sent as links, sockets
// not at all. Errors name the file; a device or a pipe is one.
func Write(w io.Writer, dir, dockerfile string) error {
	if dockerfile == "" {
		dockerfile = DefaultDockerfile
	}
	name := path.Clean(filepath.ToSlash(dockerfile))
	if !filepath.IsLocal(filepath.FromSlash(name)) {
		return fmt.Errorf("cannot send the Dockerfile %q: it is outside of the folder %q", dockerfile, dir)
	}
	if err := checkDockerfile(dir, name); err != nil {
		return err
	}
	ignored, err := newIgnore(dir, name)
	if err != nil {
		return err
	}
	p := &packer{dir: dir, dockerfile: name, ignored: ignored, tar: tar.NewWriter(w), sent: make(map[string]bool)}
	if err := filepath.WalkDir(dir, p.visit); err != nil {
		return err
	}
	if err := p.tar.Close(); err != nil {
		return fmt.Errorf("cannot send the folder %q: %w", dir, err)
	}
	return nil
}

func checkDockerfile(dir, name string) error {
	st, err := os.Stat(filepath.Join(dir, filepath.FromSlash(name)))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("cannot build %q: there is no %s in it: %w", dir, name, err)
	case err != nil:
		return fmt.Errorf("cannot read the Dockerfile: %w", err)
	case !st.Mode().IsRegular():
		return fmt.Errorf("cannot build %q: %s is not a file", dir, name)
	}
	return nil
}

type packer struct {
	dir        string
	dockerfile string
	ignored    *ignore
	tar        *tar.Writer
	sent       map[string]bool // folders whose header was written
}

func (p *packer) visit(file string, d fs.DirEntry, err error) error {
	if err != nil {
		return fmt.Errorf("cannot read the folder to build: %w", err)
	}
	rel, err := filepath.Rel(p.dir, file)
	if err != nil || rel == "." {
		return err
	}
	name := filepath.ToSlash(rel)
	if p.always(name) {
		return p.add(name, d)
	}
	skip, err := p.ignored.match(name)
	switch {
	case err != nil:
		return fmt.Errorf("cannot tell whether %q is ignored: %w", name, err)
	case !skip:
		return p.add(name, d)
	case d.IsDir() && !p.wantedBelow(name):
		return fs.SkipDir
	}
	return nil
}

// always says what the builder itself reads.
func (p *packer) always(name string) bool {
	return name == p.dockerfile || name == ".dockerignore" || name == p.dockerfile+".dockerignore"
}

// wantedBelow says whether an ignored folder must be walked all the same.
func (p *packer) wantedBelow(name string) bool {
	return strings.HasPrefix(p.dockerfile, name+"/") || p.ignored.exceptionBelow(name)
}

// add writes one entry, after those of the ignored folders that it lies in.
func (p *packer) add(name string, d fs.DirEntry) error {
	if parent := path.Dir(name); parent != "." && !p.sent[parent] {
		info, err := os.Lstat(p.path(parent))
		if err != nil {
			return fmt.Errorf("cannot read the folder to build: %w", err)
		}
		if err := p.add(parent, fs.FileInfoToDirEntry(info)); err != nil {
			return err
		}
	}
	info, err := d.Info()
	if err == nil && name == p.dockerfile {
		info, err = os.Stat(p.path(name)) // the builder does not follow links, so the file itself is sent
	}
	if err != nil {
		return fmt.Errorf("cannot read the folder to build: %w", err)
	}
	return p.entry(name, info)
}

func (p *packer) path(name string) string { return filepath.Join(p.dir, filepath.FromSlash(name)) }

func (p *packer) entry(name string, info fs.FileInfo) error {
	h := &tar.Header{Name: name, Mode: int64(portable(info.Mode()).Perm()), ModTime: info.ModTime().Truncate(time.Second)}
	switch t := info.Mode().Type(); {
	case t.IsDir():
		p.sent[name] = true
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
		return p.header(h)
	case t.IsRegular():
		h.Typeflag, h.Size = tar.TypeReg, info.Size()
		return p.file(h, name)
	case t&fs.ModeSymlink != 0:
		target, err := os.Readlink(p.path(name))
		if err != nil {
			return fmt.Errorf("cannot read a link in the folder to build: %w", err)
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, filepath.ToSlash(target)
		return p.header(h)
	case t&fs.ModeSocket != 0:
		return nil
	}
	return fmt.Errorf("cannot send %q: it is neither a file nor a folder nor a link; name it in .dockerignore", name)
}

// portable makes files runnable that come from a system without that bit.
func portable(m fs.FileMode) fs.FileMode {
	if runtime.GOOS == "windows" {
		return m | 0o755
	}
	return m
}

func (p *packer) header(h *tar.Header) error {
	if err := p.tar.WriteHeader(h); err != nil {
		return fmt.Errorf("cannot send %q: %w", h.Name, err)
	}
	return nil
}

func (p *packer) file(h *tar.Header, name string) error {
	f, err := os.Open(p.path(name))
	if err != nil {
		return fmt.Errorf("cannot read the folder to build: %w", err)
	}
	defer f.Close()
	if err := p.header(h); err != nil {
		return err
	}
	n, err := io.Copy(p.tar, io.LimitReader(f, h.Size))
	if err != nil {
		return fmt.Errorf("cannot send %q: %w", name, err)
	}
	if n != h.Size {
		return fmt.Errorf("cannot send %q: it became shorter while it was read; try again", name)
	}
	return nil
}

// ignore is a read .dockerignore.
type ignore struct {
	matcher *patternmatcher.PatternMatcher
}

func newIgnore(dir, dockerfile string) (*ignore, error) {
	for _, name := range []string{dockerfile + ".dockerignore", ".dockerignore"} {
		f, err := os.Open(filepath.Join(dir, filepath.FromSlash(name)))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read %s: %w", name, err)
		}
		defer f.Close()
		return parseIgnore(f, name)
	}
	return &ignore{}, nil
}

func parseIgnore(r io.Reader, name string) (*ignore, error) {
	patterns, err := ignorefile.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", name, err)
	}
	m, err := patternmatcher.New(patterns)
	if err != nil {
		return nil, fmt.Errorf("cannot use %s: %w", name, err)
	}
	return &ignore{matcher: m}, nil
}

func (i *ignore) match(name string) (bool, error) {
	if i.matcher == nil {
		return false, nil
	}
	return i.matcher.MatchesOrParentMatches(name)
}

// exceptionBelow says whether a "!" pattern may name something below the folder. It may say yes for nothing; it never
// says no wrongly.
func (i *ignore) exceptionBelow(folder string) bool {
	if i.matcher == nil || !i.matcher.Exclusions() {
		return false
	}
	for _, p := range i.matcher.Patterns() {
		if p.Exclusion() && reaches(filepath.ToSlash(p.String()), folder) {
			return true
		}
	}
	return false
}

// reaches compares a pattern with a folder name by name; from the first wildcard on, anything may match.
func reaches(pattern, folder string) bool {
	want, have := strings.Split(pattern, "/"), strings.Split(folder, "/")
	for i := range min(len(want), len(have)) {
		if strings.ContainsAny(want[i], `*?[\`) {
			return true
		}
		if want[i] != have[i] {
			return false
		}
	}
	return true
}
