package machine

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"github.com/perigee-run/perigee/internal/version"
)

// maxOutput is how much of an answer's body is kept.
const maxOutput = 512

// try makes one check of the machine at addr.
func (h *Host) try(ctx context.Context, p probe, addr netip.Addr) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, p.check.Timeout.Or(defaultTimeout))
	defer cancel()
	target := net.JoinHostPort(addr.String(), strconv.Itoa(p.check.Port))
	if p.check.Type == "tcp" {
		return h.tryTCP(ctx, target)
	}
	return h.tryHTTP(ctx, p, target)
}

func (h *Host) tryTCP(ctx context.Context, target string) (string, error) {
	c, err := h.cfg.Dial(ctx, "tcp", target)
	if err != nil {
		return "", err
	}
	return "connected", c.Close()
}

func (h *Host) tryHTTP(ctx context.Context, p probe, target string) (string, error) {
	req, err := p.request(ctx, target)
	if err != nil {
		return "", err
	}
	client := http.Client{
		Transport: &http.Transport{
			DialContext: h.cfg.Dial, DisableKeepAlives: true,
			TLSClientConfig: &tls.Config{InsecureSkipVerify: p.check.TLSSkipVerify, ServerName: p.check.TLSServerName},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	res, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(res.Body, maxOutput))
	text := strings.TrimSpace(strings.ToValidUTF8(string(body), "?"))
	if res.StatusCode < 200 || res.StatusCode > 299 {
		return "", fmt.Errorf("%s %s answered %s: %s", req.Method, p.check.Path, res.Status, text)
	}
	return res.Status, nil
}

func (p *probe) request(ctx context.Context, target string) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, strings.ToUpper(p.check.Method), p.check.Protocol+"://"+target+p.check.Path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "perigee-check/"+version.Version)
	for _, h := range p.check.Headers {
		for i, v := range h.Values {
			switch {
			case strings.EqualFold(h.Name, "Host"):
				req.Host = v
			case i == 0:
				req.Header.Set(h.Name, v)
			default:
				req.Header.Add(h.Name, v)
			}
		}
	}
	return req, nil
}
