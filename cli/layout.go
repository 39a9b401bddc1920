package cli

import (
	"archive/tar"
	"io"
	"os"
)

// writeLayout packs the folder of an OCI layout.
func writeLayout(w io.Writer, dir string) error {
	t := tar.NewWriter(w)
	if err := t.AddFS(os.DirFS(dir)); err != nil {
		return err
	}
	return t.Close()
}
