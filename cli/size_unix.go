//go:build unix

package cli

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/perigee-run/perigee/api"
	"golang.org/x/term"
)

// watchSize sends the terminal's size each time it changes.
func watchSize(ctx context.Context, fd int) <-chan api.TerminalSize {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH)
	out := make(chan api.TerminalSize)
	go func() {
		defer signal.Stop(changed)
		for {
			select {
			case <-ctx.Done():
				return
			case <-changed:
			}
			cols, rows, err := term.GetSize(fd)
			if err != nil {
				continue
			}
			select {
			case out <- api.TerminalSize{Cols: uint16(cols), Rows: uint16(rows)}:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}
