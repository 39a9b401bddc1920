package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/perigee-run/perigee/router"
	"github.com/perigee-run/perigee/router/localca"
)

// origin answers as cheaply as can be: whole requests are expected in one read.
func origin(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	small, large := answer(1<<10), answer(1<<20)
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			buf := make([]byte, 4<<10)
			for {
				n, err := c.Read(buf)
				if err != nil {
					return
				}
				out := small
				if bytes.HasPrefix(buf[:n], []byte("GET /1m")) {
					out = large
				}
				if _, err := c.Write(out); err != nil {
					return
				}
			}
		}()
	}
}

func answer(n int) []byte {
	head := fmt.Sprintf("HTTP/1.1 200 OK\r\nServer: origin\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n", n)
	return append([]byte(head), bytes.Repeat([]byte("x"), n)...)
}

// edge runs the router with one app: addrs are the origin's, then its own for port 80 and for 443.
func edge(ctx context.Context, dir string, addrs []string) error {
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		return err
	}
	r := router.New(router.Config{Certificates: one{&cert}, Listen: map[int]string{80: addrs[1], 443: addrs[2]}})
	at := netip.MustParseAddrPort(addrs[0])
	err = r.SetTable(router.Table{Apps: []router.App{{Name: "bench", Hosts: []string{"bench.localhost"}, Services: []router.Service{{
		InternalPort: int(at.Port()), Machines: []router.Machine{{ID: "m", Addr: at.Addr(), State: router.StateStarted, Healthy: true}},
		Ports: []router.Port{{Start: 80, Handlers: []string{router.HandlerHTTP}}, {Start: 443, Handlers: []string{router.HandlerTLS, router.HandlerHTTP}}},
	}}}}})
	if err != nil {
		return err
	}
	return r.Run(ctx)
}

// one is a single certificate for all names: wrk sends none.
type one struct{ cert *tls.Certificate }

func (o one) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error)     { return o.cert, nil }
func (o one) ServeChallenge(http.ResponseWriter, *http.Request) (answered bool) { return false }

func writePair(ca *localca.CA, dir string) error {
	leaf, err := ca.Leaf("bench.localhost")
	if err != nil {
		return err
	}
	key, err := x509.MarshalPKCS8PrivateKey(leaf.PrivateKey)
	if err != nil {
		return err
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Certificate[0]})
	if err := os.WriteFile(filepath.Join(dir, "cert.pem"), cert, 0o600); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), 0o600)
}
