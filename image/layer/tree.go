// Package layer turns the layer archives of an image, bottom up, into one tree
// of inodes that lives in memory only. Nothing of an archive ever becomes a
// path on the host: names are walked inside the tree, symlinks included, so
// there is nowhere to escape to. File contents pass through to a Sink.
//
// Archives are hostile until proven otherwise. Entries that leave the root,
// links to nothing, impossible names and numbers, and anything past the Limits
// end the work with an error that names the entry.
//
// It checks no digests (its callers do, around it) and writes no file system.
package layer

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/perigee-run/perigee/image/erofs"
)

// What Linux can follow, and what keeps walks short.
const (
	maxPath  = 4096
	maxName  = 255
	maxDepth = 2048
	maxLinks = 40
	maxSteps = 8192
)

// Limits bound what the layers of one image may hold together.
type Limits struct {
	Files int   // entries, and directories made for them
	Bytes int64 // contents and archive framing
}

// Sink takes the contents of files in the order in which they arrive and
// returns where each begins.
type Sink interface {
	WriteFile(r io.Reader, size int64) (block uint32, err error)
}

// Tree is the merged tree of the layers applied so far. It is for one
// goroutine. After an error it is of no more use.
type Tree struct {
	limits Limits
	sink   Sink
	root   *node
	layer  int32 // the one being applied, the base is 1
	files  int
	bytes  int64
	meta   int64
	stored []*node // files with contents, in the order of their blocks

	lastPath string // the directory that the previous entry was in
	lastDir  *node
}

// node is an inode with what merging needs to know.
type node struct {
	ino  erofs.Inode
	kids map[string]link
	// cleared is the last layer in which all that lower layers put below this
	// directory was removed, or in which the directory was made.
	cleared int32
	live    bool
}

// link is a name's object and the layer that set it.
type link struct {
	n     *node
	layer int32
}

// New returns an empty tree whose file contents go to sink.
func New(limits Limits, sink Sink) *Tree {
	return &Tree{limits: limits, sink: sink, root: newDir(0), layer: 1}
}

func newDir(layer int32) *node {
	return &node{ino: erofs.Inode{Mode: erofs.TypeDir | 0o755}, cleared: layer}
}

// Files is the number of entries read so far.
func (t *Tree) Files() int { return t.files }

// count adds one object and the bytes that describe it.
func (t *Tree) count(meta int) error {
	t.files++
	t.meta += int64(meta)
	if t.files > t.limits.Files {
		return fmt.Errorf("the image has more than %d files", t.limits.Files)
	}
	if t.meta > 256*int64(t.limits.Files) {
		return errors.New("the image's names, links and attributes take too much memory")
	}
	return nil
}

// grow adds n bytes to what the image holds.
func (t *Tree) grow(n int64) error {
	if n < 0 || n > t.limits.Bytes-t.bytes {
		return fmt.Errorf("the image is larger than %d bytes unpacked", t.limits.Bytes)
	}
	t.bytes += n
	return nil
}

// split takes a path of an archive apart. A leading slash means the root of the
// image; a step up is refused even where it would stay inside.
func split(path string) ([]string, error) {
	if len(path) > maxPath {
		return nil, fmt.Errorf("the path is longer than %d bytes", maxPath)
	}
	if strings.IndexByte(path, 0) >= 0 {
		return nil, errors.New("the path has a NUL byte")
	}
	var parts []string
	for p := range strings.SplitSeq(path, "/") {
		switch {
		case p == "" || p == ".":
		case p == "..":
			return nil, errors.New("the path has a .. step")
		case len(p) > maxName:
			return nil, fmt.Errorf("a name is longer than %d bytes", maxName)
		default:
			parts = append(parts, p)
		}
	}
	return parts, nil
}

var errNotThere = errors.New("no such file or directory in the image")

// dir walks to a directory, through symlinks, never above the root. With make
// set it adds what is missing.
func (t *Tree) dir(parts []string, mk bool) (*node, error) {
	w := walk{t: t, stack: []*node{t.root}, todo: reversed(nil, parts)}
	for steps := 0; len(w.todo) > 0; steps++ {
		if steps > maxSteps {
			return nil, errors.New("the path takes too many steps")
		}
		if err := w.step(mk); err != nil {
			return nil, err
		}
	}
	return w.stack[len(w.stack)-1], nil
}

// walk is a path on its way: where it is and what is left of it, last first.
type walk struct {
	t     *Tree
	stack []*node
	todo  []string
	links int
}

func reversed(todo, parts []string) []string {
	for i := len(parts) - 1; i >= 0; i-- {
		todo = append(todo, parts[i])
	}
	return todo
}

func (w *walk) step(mk bool) error {
	name := w.todo[len(w.todo)-1]
	w.todo = w.todo[:len(w.todo)-1]
	switch name {
	case "", ".":
		return nil
	case "..":
		w.stack = w.stack[:max(1, len(w.stack)-1)]
		return nil
	}
	cur := w.stack[len(w.stack)-1]
	next, ok := cur.kids[name]
	if !ok {
		if !mk {
			return errNotThere
		}
		return w.make(cur, name)
	}
	switch next.n.ino.Mode & erofs.TypeMask {
	case erofs.TypeDir:
		return w.enter(next.n)
	case erofs.TypeSymlink:
		return w.follow(next.n.ino.Target)
	}
	return fmt.Errorf("%q on the way is not a directory", name)
}

func (w *walk) enter(n *node) error {
	if len(w.stack) > maxDepth {
		return fmt.Errorf("the tree is deeper than %d directories", maxDepth)
	}
	w.stack = append(w.stack, n)
	return nil
}

func (w *walk) make(parent *node, name string) error {
	if len(name) > maxName {
		return fmt.Errorf("a name is longer than %d bytes", maxName)
	}
	if err := w.t.count(len(name)); err != nil {
		return err
	}
	n := newDir(w.t.layer)
	parent.set(name, link{n, w.t.layer})
	return w.enter(n)
}

func (w *walk) follow(target string) error {
	if w.links++; w.links > maxLinks {
		return errors.New("too many symlinks on the way")
	}
	if strings.HasPrefix(target, "/") {
		w.stack = w.stack[:1]
	}
	w.todo = reversed(w.todo, strings.Split(target, "/"))
	return nil
}

func (n *node) set(name string, l link) {
	if n.kids == nil {
		n.kids = make(map[string]link)
	}
	n.kids[name] = l
}

// parent walks to the directory that the last of parts is or will be in.
// Archives list a directory's entries in a row, so the last one is remembered.
func (t *Tree) parent(parts []string) (*node, error) {
	path := strings.Join(parts[:len(parts)-1], "/")
	if t.lastDir != nil && t.lastPath == path {
		return t.lastDir, nil
	}
	dir, err := t.dir(parts[:len(parts)-1], true)
	if err != nil {
		return nil, err
	}
	t.lastPath, t.lastDir = path, dir
	return dir, nil
}

// put sets a name in a directory. A directory over a directory keeps what is in
// it; anything else replaces what was there.
func (t *Tree) put(dir *node, name string, n *node) {
	old, there := dir.kids[name]
	if there && old.n.ino.IsDir() && n.ino.IsDir() {
		old.n.ino = n.ino
		n = old.n
	} else if there {
		t.lastDir = nil
	}
	dir.set(name, link{n, t.layer})
}

// hide removes what lower layers put at a name.
func (t *Tree) hide(dir *node, name string) {
	old, ok := dir.kids[name]
	if !ok {
		return
	}
	t.lastDir = nil
	if !t.clear(old) {
		delete(dir.kids, name)
	}
}

// clear removes what lower layers put at and below l and tells whether
// something of this layer remains. It passes each directory once per layer.
func (t *Tree) clear(l link) (remains bool) {
	remains = l.layer == t.layer
	if !l.n.ino.IsDir() {
		return remains
	}
	if l.n.cleared == t.layer {
		return remains || len(l.n.kids) > 0
	}
	l.n.cleared = t.layer
	for name, kid := range l.n.kids {
		if t.clear(kid) {
			remains = true
		} else {
			delete(l.n.kids, name)
		}
	}
	return remains
}

// Bake puts a file that every machine sees at an absolute path, whatever the
// layers have there.
func (t *Tree) Bake(path string, content []byte) error {
	parts, err := split(path)
	if err == nil && len(parts) == 0 {
		err = errors.New("the path names no file")
	}
	if err != nil {
		return fmt.Errorf("cannot place %q in the image: %w", path, err)
	}
	t.lastDir = nil
	dir, err := t.parent(parts)
	if err != nil {
		return fmt.Errorf("cannot place %q in the image: %w", path, err)
	}
	n := &node{ino: erofs.Inode{Mode: erofs.TypeFile | 0o644, Size: int64(len(content))}}
	if n.ino.Block, err = t.sink.WriteFile(strings.NewReader(string(content)), n.ino.Size); err != nil {
		return err
	}
	t.stored = append(t.stored, n)
	t.put(dir, parts[len(parts)-1], n)
	return nil
}

// MountPoint makes sure that a name in the root is a directory that something
// can be mounted on. With link set, a symlink that leads to one will do.
func (t *Tree) MountPoint(name string, mode uint16, link bool) {
	if l, ok := t.root.kids[name]; ok && l.n.ino.IsDir() {
		return
	}
	if _, err := t.dir([]string{name}, false); err == nil && link {
		return
	}
	n := newDir(t.layer)
	n.ino.Mode = erofs.TypeDir | mode
	t.put(t.root, name, n)
}

// MakeDir makes a directory and its parents where they are missing.
func (t *Tree) MakeDir(path string) error {
	parts, err := split(path)
	if err == nil {
		_, err = t.dir(parts, true)
	}
	if err != nil {
		return fmt.Errorf("cannot make directory %q in the image: %w", path, err)
	}
	return nil
}

// File finds a regular file, through symlinks.
func (t *Tree) File(path string) (erofs.Extent, bool) {
	parts, err := split(path)
	for range maxLinks {
		if err != nil || len(parts) == 0 {
			break
		}
		last := len(parts) - 1
		dir, err := t.dir(parts[:last], false)
		if err != nil {
			break
		}
		l, ok := dir.kids[parts[last]]
		if !ok {
			break
		}
		switch l.n.ino.Mode & erofs.TypeMask {
		case erofs.TypeFile:
			return erofs.Extent{Block: l.n.ino.Block, Size: l.n.ino.Size}, true
		case erofs.TypeSymlink:
			parts = beside(parts[:last], l.n.ino.Target)
		default:
			return erofs.Extent{}, false
		}
	}
	return erofs.Extent{}, false
}

// beside is where a symlink in a directory leads, step by step.
func beside(dir []string, target string) []string {
	if strings.HasPrefix(target, "/") {
		dir = nil
	}
	return append(dir[:len(dir):len(dir)], strings.Split(target, "/")...)
}

// Finished is a tree that is ready to be written.
type Finished struct {
	Root *erofs.Inode
	// Dead are the contents that no inode refers to, in the order of blocks.
	Dead []erofs.Extent
	// Xattrs counts the inodes that have extended attributes.
	Xattrs int
}

// Finish ends the merging. Without xattrs the inodes come without attributes,
// which are still counted.
func (t *Tree) Finish(xattrs bool) Finished {
	f := Finished{Root: &t.root.ino}
	f.take(t.root, xattrs)
	for _, n := range t.stored {
		if !n.live && n.ino.Size > 0 {
			f.Dead = append(f.Dead, erofs.Extent{Block: n.ino.Block, Size: n.ino.Size})
		}
	}
	return f
}

func (f *Finished) take(n *node, xattrs bool) {
	if n.live {
		return
	}
	n.live = true
	if len(n.ino.Xattrs) > 0 {
		f.Xattrs++
	}
	if !xattrs {
		n.ino.Xattrs = nil
	}
	if len(n.kids) == 0 {
		return
	}
	n.ino.Entries = make([]erofs.Entry, 0, len(n.kids))
	for name, l := range n.kids {
		n.ino.Entries = append(n.ino.Entries, erofs.Entry{Name: name, Inode: &l.n.ino})
		f.take(l.n, xattrs)
	}
	n.kids = nil
}
