package machine

import (
	"io"
	"strings"
	"testing"
)

// TestCapped: what a command says is kept up to a bound, also by those who copy it.
func TestCapped(t *testing.T) {
	c := &capped{}
	talk := struct{ io.Reader }{strings.NewReader(strings.Repeat("a", 3*maxExecOutput))} // no WriterTo
	n, err := io.Copy(c, talk)
	if err != nil || n != 3*maxExecOutput || len(c.String()) != maxExecOutput {
		t.Errorf("copied %d, %v; kept %d, want %d", n, err, len(c.String()), maxExecOutput)
	}
}
