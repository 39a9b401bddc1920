package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/internal/durable"
)

// Names in the data directory. What is made in one of the last two becomes the
// first by a rename, when all of it is on disk.
const (
	homeDir    = "cluster"
	newDir     = "cluster.new"
	joiningDir = "cluster.joining"
)

// Names in homeDir. sharedDir is there between a join and the moment that its
// files are at their places.
const (
	authorityFile = "ca.pem"
	signerFile    = "ca.key"
	nodeFile      = "node.pem"
	identityFile  = "cluster.json"
	nodesFile     = "nodes.json"
	sharedDir     = "shared"
)

const format = 1

// identity is cluster.json.
type identity struct {
	Format  int      `json:"format"`
	Cluster string   `json:"cluster"`
	Self    Node     `json:"self"`
	Granted []string `json:"granted"` // the most roles that this node may have
}

func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(path, 0o600, append(b, '\n'))
}

func readIdentity(dir string) (id identity, err error) {
	path := filepath.Join(dir, identityFile)
	b, err := os.ReadFile(path)
	if err != nil {
		return id, err
	}
	if err := json.Unmarshal(b, &id); err != nil {
		return id, fmt.Errorf("cannot read %s: %w; restore %s from a backup", path, err, dir)
	}
	if id.Format != format {
		return id, fmt.Errorf("cannot read %s: it has format %d, this version knows %d", path, id.Format, format)
	}
	return id, nil
}

func readNodes(dir string) (map[string]Node, error) {
	all := map[string]Node{}
	b, err := os.ReadFile(filepath.Join(dir, nodesFile))
	if errors.Is(err, fs.ErrNotExist) {
		return all, nil
	}
	var list []Node
	if err = errors.Join(err, json.Unmarshal(b, &list)); err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", filepath.Join(dir, nodesFile), err)
	}
	for _, n := range list {
		all[n.Name] = n
	}
	return all, nil
}

// readAuthority reads the certificate, and the key where it is there.
func readAuthority(dir string) (*authority, error) {
	b, err := os.ReadFile(filepath.Join(dir, authorityFile))
	if err != nil {
		return nil, err
	}
	cert, _, err := readPEM(b)
	if err != nil || cert == nil || !cert.IsCA {
		return nil, fmt.Errorf("cannot read %s: it is not an authority's certificate; restore %s from a backup", authorityFile, dir)
	}
	b, err = os.ReadFile(filepath.Join(dir, signerFile))
	if errors.Is(err, fs.ErrNotExist) {
		return withPool(cert, nil), nil
	}
	if err != nil {
		return nil, err
	}
	_, key, err := readPEM(b)
	if err != nil || key == nil || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("cannot read %s: it is not the key of %s; restore %s from a backup", signerFile, authorityFile, dir)
	}
	return withPool(cert, key), nil
}

// makeDir makes an empty folder for this user alone.
func makeDir(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.MkdirAll(dir, 0o700)
}

// writeFiles writes files by their slash-separated paths under dir, each whole
// or not at all.
func writeFiles(dir string, files map[string][]byte) error {
	for _, name := range slices.Sorted(maps.Keys(files)) {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := durable.WriteFile(path, 0o600, files[name]); err != nil {
			return err
		}
	}
	return nil
}

// checkFiles refuses names that would leave the data directory or touch ours.
func checkFiles(files map[string][]byte) error {
	for name := range files {
		top, _, _ := strings.Cut(name, "/")
		if !filepath.IsLocal(filepath.FromSlash(name)) || strings.Contains(name, `\`) || name != filepath.ToSlash(filepath.Clean(name)) ||
			top == "." || strings.HasPrefix(top, homeDir) {
			return fmt.Errorf("cannot take shared file %q: its name leads elsewhere", api.Clip(name))
		}
	}
	return nil
}

// placeShared moves what a join brought to its places in the data directory. It
// may be cut off and begun again.
func placeShared(data string) error {
	from := filepath.Join(data, homeDir, sharedDir)
	files := map[string][]byte{}
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		files[filepath.ToSlash(rel)], err = os.ReadFile(path)
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err = errors.Join(err, checkFiles(files)); err != nil {
		return err
	}
	if err := writeFiles(data, files); err != nil {
		return err
	}
	return os.RemoveAll(from)
}
