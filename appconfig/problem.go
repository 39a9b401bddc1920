package appconfig

import (
	"fmt"
	"strings"
)

// Problem is one finding in a configuration file.
type Problem struct {
	File   string `json:"file"`
	Line   int    `json:"line"`   // from 1; 0: the file as a whole
	Column int    `json:"column"` // from 1, in bytes
	Key    string `json:"key,omitempty"`
	Text   string `json:"text"` // what is wrong and what to do
}

// String is file:line:column: key: text.
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", p.Line, p.Column)
	}
	if p.Key != "" {
		b.WriteString(": " + p.Key)
	}
	return b.String() + ": " + p.Text
}

// Warning is a finding that does not stop a deploy.
type Warning struct{ Problem }

// Errors are the findings that make a configuration unusable, in the order of
// the file. There is at least one.
type Errors []Problem

// Error has one finding a line.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, p := range e {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}
