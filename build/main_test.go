//go:build linux

package build

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

// TestMain lets the test program be the builder process too, as perigeed is.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "builder" {
		os.Exit(serveMain(os.Args[2]))
	}
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"))
}

func serveMain(conf string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	c, err := LoadServeConfig(conf)
	if err == nil {
		err = Serve(ctx, c)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
