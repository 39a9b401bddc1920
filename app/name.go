package app

import (
	"strings"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/appconfig"
)

// CheckName reports why name cannot be an app's; the rule is the one that
// configuration files are checked by.
func CheckName(name string) error {
	if err := appconfig.CheckAppName(name); err != nil {
		return invalid("app_name", "%v", err).WithHint("1 to 63 lower-case letters, digits and hyphens")
	}
	return nil
}

func checkSlug(field, s string) error {
	if why := label(s); why != "" {
		return invalid(field, "%s %q %s", strings.ReplaceAll(field, "_", " "), api.Clip(s), why).
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
