package appconfig

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// reserved app names would stand for something else in a host name or in the
// private DNS.
var reserved = []string{
	"admin", "api", "app", "apps", "auth", "dashboard", "dns", "flycast", "global", "internal", "kv", "local", "localhost",
	"login", "metrics", "nearest", "of", "peer", "perigee", "process", "registry", "status", "vm", "www",
}

var (
	envForm     = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]{0,254}$`)
	groupForm   = regexp.MustCompile(`^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$`)
	regionForm  = regexp.MustCompile(`^[a-z][a-z0-9]{1,15}$`)
	checkForm   = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.:/-]{0,62}$`)
	headerForm  = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}$")
	methodForm  = regexp.MustCompile(`^[A-Za-z]{1,16}$`)
	hostForm    = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$`)
	secretForm  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,254}$`)
	signalForm  = regexp.MustCompile(`^([1-9]|[1-5][0-9]|6[0-4])$`)
	notNameChar = regexp.MustCompile(`[^a-z0-9-]`)
)

// CheckAppName reports why name cannot be an app's: 1 to 63 lower-case letters,
// digits and hyphens, no hyphen at either end, and no reserved word. It is the
// rule of the node too.
func CheckAppName(name string) error {
	switch {
	case name == "":
		return errors.New("an app's name cannot be empty")
	case len(name) > 63:
		return fmt.Errorf("app name %q has %d characters; the most is 63", name[:20]+"…", len(name))
	case notNameChar.MatchString(name):
		return fmt.Errorf("app name %q has %q in it; use lower-case letters, digits and hyphens", name, notNameChar.FindString(name))
	case name[0] == '-' || name[len(name)-1] == '-':
		return fmt.Errorf("app name %q begins or ends with a hyphen", name)
	case strings.HasPrefix(name, "xn--"):
		return fmt.Errorf("app name %q begins like an encoded international name; choose another", name)
	case slices.Contains(reserved, name):
		return fmt.Errorf("app name %q is reserved; choose another, such as %q", name, "my-"+name)
	}
	return nil
}

// CheckSecretName reports why name cannot be a secret's: it becomes a variable
// of the environment, so it is 1 to 255 letters, digits and underscores, no
// digit first. It is the rule of the node too.
func CheckSecretName(name string) error {
	switch {
	case name == "":
		return errors.New("a secret's name cannot be empty")
	case len(name) > 255:
		return fmt.Errorf("secret name %q has %d characters; the most is 255", name[:20]+"…", len(name))
	case !secretForm.MatchString(name):
		return fmt.Errorf("%s cannot name a secret; use letters, digits and underscores, no digit first", show(name))
	}
	return nil
}

// signals are Linux's, whatever system the file is checked on.
var signals = strings.Fields(`HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP TTIN TTOU
	URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS`)

// knownSignal takes SIGTERM, TERM, term or 15, as the node does.
func knownSignal(s string) bool {
	return signalForm.MatchString(s) || slices.Contains(signals, strings.TrimPrefix(strings.ToUpper(s), "SIG"))
}
