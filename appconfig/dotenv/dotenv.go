// Package dotenv reads .env files: the values that a developer's machine keeps beside
// an app, on their way to become its secrets. It changes no environment.
package dotenv

import (
	"fmt"
	"strings"
)

// Most is how many bytes a file may have.
const Most = 1 << 20

// Parse reads lines of NAME=VALUE as .env files have them. "export " before a
// name is left out, and so are comments: lines that begin with #, and what follows
// " #" after a bare value. A value may be in single quotes, which stand for
// themselves, or in double quotes, where \n, \r, \t, \" and \\ are replaced;
// quoted values and those in three double quotes go on over lines. An error names a
// line and never its text, which may be a secret.
func Parse(text string) (map[string]*string, error) {
	if len(text) > Most {
		return nil, fmt.Errorf("the input has more than %d bytes", Most)
	}
	values := map[string]*string{}
	rest := strings.TrimPrefix(strings.ReplaceAll(text, "\r\n", "\n"), "\ufeff")
	for line := 1; rest != ""; {
		before := rest
		head, _, _ := strings.Cut(rest, "\n")
		if trimmed := strings.TrimSpace(head); trimmed == "" || trimmed[0] == '#' {
			rest = after(rest)
		} else {
			name, tail, ok := strings.Cut(rest, "=")
			name = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(name), "export "))
			if !ok || name == "" || strings.ContainsAny(name, "\n \t") {
				return nil, fmt.Errorf("line %d is not NAME=VALUE", line)
			}
			v, left, err := value(tail)
			if err != nil {
				return nil, fmt.Errorf("line %d: the value of %s %w", line, name, err)
			}
			values[name], rest = &v, left
		}
		line += strings.Count(before[:len(before)-len(rest)], "\n")
	}
	return values, nil
}

// after is what follows the first line.
func after(s string) string {
	_, rest, _ := strings.Cut(s, "\n")
	return rest
}

// value reads the value that s begins with, and returns what follows its line.
func value(s string) (text, rest string, err error) {
	s = strings.TrimLeft(s, " \t")
	for _, quote := range []string{`"""`, `"`, `'`} {
		body, ok := strings.CutPrefix(s, quote)
		if !ok {
			continue
		}
		end := closing(body, quote)
		if end < 0 {
			return "", "", fmt.Errorf("begins with %s and does not end with it", quote)
		}
		tail, _, _ := strings.Cut(body[end+len(quote):], "\n")
		if t := strings.TrimSpace(tail); t != "" && t[0] != '#' {
			return "", "", fmt.Errorf("is followed by something on its line")
		}
		text = body[:end]
		if quote == `"` {
			text = strings.NewReplacer(`\n`, "\n", `\r`, "\r", `\t`, "\t", `\"`, `"`, `\\`, `\`).Replace(text)
		}
		return text, after(body[end+len(quote):]), nil
	}
	text, _, _ = strings.Cut(s, "\n")
	text, _, _ = strings.Cut(text, " #")
	return strings.TrimSpace(text), after(s), nil
}

// closing is where the quote ends the text; in plain double quotes one behind a
// backslash does not.
func closing(s, quote string) int {
	if quote != `"` {
		return strings.Index(s, quote)
	}
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return i
		}
	}
	return -1
}
