package cli

import (
	"fmt"
	"iter"
	"strings"

	"github.com/perigee-run/perigee/api"
)

// progressView shows a stream of progress: a line for each thing that
// happened, and on a terminal one moving line for the layers under way.
type progressView struct {
	e      *env
	moving bool
	last   map[string]string
}

func (e *env) newProgress() *progressView { return &progressView{e: e, last: map[string]string{}} }

func (v *progressView) note(format string, a ...any) {
	if !v.e.json {
		v.line(v.e.paint(dim, "· ") + plainText(fmt.Sprintf(format, a...)))
	}
}

func (v *progressView) line(s string) {
	if v.moving {
		fmt.Fprint(v.e.Err, "\r\x1b[K")
		v.moving = false
	}
	fmt.Fprintln(v.e.Err, s)
}

// image consumes the stream of a build, pull or import and returns the
// reference it ends with.
func (v *progressView) image(seq iter.Seq2[api.Progress, error]) (string, error) {
	for p, err := range seq {
		if err != nil {
			return "", err
		}
		v.show(p)
		if p.Kind == "done" {
			return p.Image, nil
		}
	}
	return "", fmt.Errorf("the node closed the stream before the image was ready")
}

func (v *progressView) show(p api.Progress) {
	if v.e.json {
		return
	}
	e := v.e
	switch p.Kind {
	case "layer":
		v.layer(p)
	case "build":
		v.build(p)
	case "log":
		v.line("  " + e.paint(dim, "| ") + plainText(p.Message))
	case "warning":
		v.line(e.paint(yellow, "warning: ") + plainText(p.Message))
	case "done", "error":
	default:
		if p.Message != "" {
			v.line(e.paint(dim, "· ") + plainText(p.Message))
		}
	}
}

// build shows a line of the builder's output. A step may tell its end twice,
// for looking up and for fetching.
func (v *progressView) build(p api.Progress) {
	text := plainText(strings.TrimRight(p.Message, "\n"))
	if text == "" || v.last["build"] == text {
		return
	}
	v.last["build"] = text
	v.line("  " + v.e.paint(dim, text))
}

// layer moves one line on a terminal, and elsewhere prints only what a layer
// came to.
func (v *progressView) layer(p api.Progress) {
	id := p.ID
	if _, hex, ok := strings.Cut(id, ":"); ok {
		id = hex
	}
	id, p.Message = plain(id[:min(len(id), 12)]), plain(p.Message)
	if tty(v.e.Err) && p.Total > 0 && p.Current < p.Total {
		fmt.Fprintf(v.e.Err, "\r\x1b[K  %s %s %s of %s", id, p.Message, bytesText(p.Current), bytesText(p.Total))
		v.moving = true
		return
	}
	if p.Total > 0 && p.Current < p.Total || v.last[id] == p.Message {
		return
	}
	v.last[id] = p.Message
	size := ""
	if p.Total > 0 {
		size = " (" + bytesText(p.Total) + ")"
	}
	v.line("  " + id + " " + p.Message + size)
}
