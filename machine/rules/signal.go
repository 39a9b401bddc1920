package rules

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// MaxSignal is the highest number of a signal.
const MaxSignal = 64

// Signal takes SIGTERM, TERM, term or 15, and returns the number; the error names
// the field.
func Signal(field, s string) (int, error) {
	if n, err := strconv.Atoi(s); err == nil && n >= 1 && n <= MaxSignal && strconv.Itoa(n) == s {
		return n, nil
	}
	name := strings.ToUpper(s)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if n := unix.SignalNum(name); n != 0 {
		return int(n), nil
	}
	return 0, invalid(field, "there is no signal %q; use a name such as SIGTERM or a number of 1 to 64", s)
}
