package image

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"unicode"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// explain says what a registry's refusal means to the one who deploys. Of what was
// sent it shows nothing but the errors that registries are documented to send: who
// deploys chose the server, and is not to read others through this one.
func (g remoteRegistry) explain(ctx context.Context, at string, err error) error {
	var refused *transport.Error
	var unproven *tls.CertificateVerificationError
	host := g.ref.registry
	switch {
	case ctx.Err() != nil:
		return alive(ctx)
	case errors.Is(err, errOwn):
		return fmt.Errorf("registry %s is not reachable from here: %w", host, errOwn)
	case errors.As(err, &refused) && refused.StatusCode == http.StatusNotFound:
		return g.notFound(ctx, at)
	case errors.As(err, &unproven):
		return fmt.Errorf("registry %s cannot prove who it is: %w; install its CA certificate on this node", host, unproven)
	case errors.As(err, &refused):
		return refusal(host, refused)
	}
	return g.unreached(err)
}

// refusal is an answer with a status that says no.
func refusal(host string, e *transport.Error) error {
	switch e.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Errorf("registry %s refused (%d): the image is private or does not exist; %s; log in with: docker login %s",
			host, e.StatusCode, lookedAt(), host)
	case http.StatusTooManyRequests:
		return fmt.Errorf("registry %s asks for fewer requests (429); wait, or log in with: docker login %s", host, host)
	}
	text := fmt.Sprintf("registry %s answered %d %s", host, e.StatusCode, http.StatusText(e.StatusCode))
	for _, d := range e.Errors[:min(len(e.Errors), 3)] {
		text += "; " + printable(string(d.Code)+": "+d.Message)
	}
	return errors.New(text)
}

// printable is a foreign text, at most one line of it.
func printable(s string) string {
	const most = 200
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
	if r := []rune(s); len(r) > most {
		return string(r[:most]) + "…"
	}
	return s
}

// unreached is a failure without an answer, or with one that is no registry's.
func (g remoteRegistry) unreached(err error) error {
	var record tls.RecordHeaderError
	var timeout net.Error
	var op *net.OpError
	host := g.ref.registry
	switch {
	case strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"), errors.As(err, &record):
		return fmt.Errorf("registry %s speaks plain HTTP; if you trust the network to it, list it as a plain-HTTP registry in the node's configuration", host)
	case errors.As(err, &op):
		return fmt.Errorf("registry %s: %w", host, op)
	case errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("registry %s does not answer in time", host)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("registry %s broke the connection off", host)
	}
	g.store.cfg.Logger.Warn("a registry does not answer as one", "registry", host, "error", err)
	return fmt.Errorf("registry %s does not answer as a registry does; the node's log says more", host)
}
