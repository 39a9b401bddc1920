package app

import (
	"slices"
	"strings"
)

// reserved are names that mean something else under a node's domain or in the
// private network.
var reserved = []string{"api", "registry", "www", "localhost", "internal", "flycast", "perigee", "apps", "global", "vm", "process"}

// CheckName reports why name cannot be an app's: it becomes a label of DNS
// names, so it is 1 to 63 lower-case letters, digits and hyphens.
func CheckName(name string) error {
	switch {
	case name == "":
		return invalid("app_name", "the app has no name").WithHint("1 to 63 lower-case letters, digits and hyphens")
	case slices.Contains(reserved, name):
		return invalid("app_name", "app name %q is reserved", name).WithHint("choose another name")
	case strings.HasPrefix(name, "xn--"):
		return invalid("app_name", "app name %q begins like an encoded international name", name).WithHint("choose another name")
	}
	return checkSlug("app_name", name)
}

func checkSlug(field, s string) error {
	if why := label(s); why != "" {
		return invalid(field, "%s %q %s", strings.ReplaceAll(field, "_", " "), clip(s), why).
			WithHint("1 to 63 lower-case letters, digits and hyphens")
	}
	return nil
}

// label says why s cannot be a label of a DNS name; "" if it can.
func label(s string) string {
	switch {
	case s == "":
		return "is empty"
	case len(s) > 63:
		return "is longer than 63 characters"
	case s[0] == '-' || s[len(s)-1] == '-':
		return "begins or ends with a hyphen"
	}
	for _, r := range s {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' {
			return "has the character " + quote(r)
		}
	}
	return ""
}

func quote(r rune) string {
	if r == ' ' {
		return "space"
	}
	return "'" + string(r) + "'"
}

// clip keeps a long name from filling the answer.
func clip(s string) string {
	if len(s) > 80 {
		return s[:77] + "..."
	}
	return s
}
