package logs

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// SourceApp marks what the app wrote on its stdout or stderr.
	SourceApp = "app"
	// SourcePlatform marks what Perigee says about a machine.
	SourcePlatform = "platform"
	// SourceMark marks the end of the past lines, see Query.Mark.
	SourceMark = "mark"
	// MaxLine is the most bytes of one line.
	MaxLine = 16 << 10

	headerSource   = "Perigee-Source"
	headerTime     = "Perigee-Time"     // ns since 1970
	headerPosition = "Perigee-Position" // generation:start:end in the console file
)

// Line is one line of log.
type Line struct {
	Time    time.Time `json:"timestamp"` // when this node read it
	App     string    `json:"app"`
	Region  string    `json:"region"`
	Machine string    `json:"machine"`
	Source  string    `json:"source"` // SourceApp or SourcePlatform
	Text    string    `json:"message"`
}

// subject is where the machine's lines go; each part must be one subject token.
func subject(app, region, machine string) (string, error) {
	for _, part := range [][2]string{{"app", app}, {"region", region}, {"machine", machine}} {
		if err := checkToken(part[1]); err != nil {
			return "", fmt.Errorf("cannot use %s %q in logs: %w", part[0], part[1], err)
		}
	}
	return "logs." + app + "." + region + "." + machine, nil
}

func checkToken(s string) error {
	if s == "" {
		return errors.New("it is empty")
	}
	for _, r := range s {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' {
			return fmt.Errorf("%q is not allowed; use letters, digits, '-' and '_'", r)
		}
	}
	return nil
}

// newBatch is the message that holds lines.
func newBatch(subject, source string, at time.Time, lines []string) *nats.Msg {
	m := nats.NewMsg(subject)
	m.Header.Set(headerSource, source)
	m.Header.Set(headerTime, strconv.FormatInt(at.UnixNano(), 10))
	m.Data = []byte(strings.Join(lines, "\n"))
	return m
}

// readBatch is its reverse. A message that someone else put into the stream is
// taken for an app's, at the time it was stored.
func readBatch(m jetstream.Msg) []Line {
	parts := strings.SplitN(m.Subject(), ".", 4)
	if len(parts) != 4 {
		return nil
	}
	l := Line{App: parts[1], Region: parts[2], Machine: parts[3], Source: m.Headers().Get(headerSource)}
	if l.Source == "" {
		l.Source = SourceApp
	}
	if ns, err := strconv.ParseInt(m.Headers().Get(headerTime), 10, 64); err == nil {
		l.Time = time.Unix(0, ns)
	} else if meta, err := m.Metadata(); err == nil {
		l.Time = meta.Timestamp
	}
	var out []Line
	for text := range strings.SplitSeq(string(m.Data()), "\n") {
		l.Text = text
		out = append(out, l)
	}
	return out
}
