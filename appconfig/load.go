package appconfig

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"unicode/utf8"
)

const maxSize = 1 << 20 // bytes of a configuration file

// Names are the files that Find looks for, the first one first.
var Names = []string{"perigee.toml", "fly.toml"}

// Find returns the path of the folder's configuration: perigee.toml, else
// fly.toml. Without either, the error is fs.ErrNotExist.
func Find(dir string) (string, error) {
	for _, name := range Names {
		path := filepath.Join(dir, name)
		switch st, err := os.Stat(path); {
		case err == nil && !st.IsDir():
			return path, nil
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return "", fmt.Errorf("cannot look for a configuration: %w", err)
		}
	}
	return "", fmt.Errorf("cannot find perigee.toml or fly.toml in %q: %w", dir, fs.ErrNotExist)
}

// Load reads and checks the file at path. Findings that make it unusable are
// returned as [Errors].
func Load(path string) (*Config, []Warning, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read configuration: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read configuration: %w", err)
	}
	return Parse(path, data)
}

// Parse reads and checks a configuration; name is what findings call the file.
// The Config is nil if there is an error, which is then an [Errors].
func Parse(name string, data []byte) (*Config, []Warning, error) {
	d := &decoder{name: name, data: data}
	if len(data) > maxSize {
		return nil, nil, Errors{{File: name, Text: fmt.Sprintf("is larger than %d bytes; it does not look like a configuration", maxSize)}}
	}
	if !utf8.Valid(data) {
		return nil, nil, Errors{{File: name, Text: "is not UTF-8 text"}}
	}
	cfg, ok := d.parse()
	if ok {
		d.validate(cfg)
	}
	var warnings []Warning
	for _, p := range inFileOrder(d.warnings) {
		warnings = append(warnings, Warning{p})
	}
	if len(d.errors) > 0 {
		return nil, warnings, Errors(inFileOrder(d.errors))
	}
	return cfg, warnings, nil
}
