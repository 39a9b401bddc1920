//go:build linux

package lab

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"time"

	"github.com/perigee-run/perigee/lab/control"
)

// visitPatience is how long a visitor waits for an answer.
const visitPatience = 30 * time.Second

// At finds the host that a name stands for: the host of that name, or the
// city's first visitor, or its first host.
func (l *Lab) At(name string) (*Host, error) {
	if h, err := l.Host(name); err == nil {
		return h, nil
	}
	if h, err := l.Host(VisitorName(name)); err == nil {
		return h, nil
	}
	for _, h := range l.Hosts() {
		if h.City == name {
			return h, nil
		}
	}
	return l.Host(name)
}

// VisitorName is how `perigee lab up` calls a city's visitor.
func VisitorName(city string) string { return "visitor-" + city }

// Visit makes one GET request from a host, as a browser would that was never
// there: the name is looked up, a connection made, TLS agreed on.
func (l *Lab) Visit(ctx context.Context, r control.VisitRequest) (control.Visit, error) {
	h, err := l.At(r.From)
	if err != nil {
		return control.Visit{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, visitPatience)
	defer cancel()
	v := control.Visit{From: h.Name}
	began := time.Now()
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, clock(&v, began)), http.MethodGet, r.URL, nil)
	if err != nil {
		return v, fmt.Errorf("cannot visit %q: %w", r.URL, err)
	}
	client, err := h.visitor(r, &v, began)
	if err != nil {
		return v, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return v, fmt.Errorf("cannot visit %q from %s: %w", r.URL, h.Name, err)
	}
	defer resp.Body.Close()
	v.Status = resp.StatusCode
	v.Bytes, err = io.Copy(io.Discard, resp.Body)
	v.Total = time.Since(began)
	return v, err
}

func (h *Host) visitor(r control.VisitRequest, v *control.Visit, began time.Time) (*http.Client, error) {
	conf := &tls.Config{InsecureSkipVerify: r.Insecure}
	if r.CA != "" {
		conf.RootCAs, _ = x509.SystemCertPool()
		if conf.RootCAs == nil {
			conf.RootCAs = x509.NewCertPool()
		}
		if !conf.RootCAs.AppendCertsFromPEM([]byte(r.CA)) {
			return nil, errors.New("cannot use the CA file: want certificates in PEM")
		}
	}
	c := h.HTTPClient()
	t := c.Transport.(*http.Transport)
	t.TLSClientConfig = conf
	t.DialContext = h.timedDial(v, r.ConnectTo, began)
	// The answer to this request is wanted, not where it leads to.
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return c, nil
}

func clock(v *control.Visit, began time.Time) *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		TLSHandshakeDone:     func(tls.ConnectionState, error) { v.TLS = time.Since(began) },
		GotFirstResponseByte: func() { v.FirstByte = time.Since(began) },
	}
}
