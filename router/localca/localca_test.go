package localca

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func open(t *testing.T, dir string) *CA {
	t.Helper()
	ca, err := Open(dir, "test")
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func TestRootIsKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	first, again := open(t, dir), open(t, dir)
	if !first.Root().Equal(again.Root()) {
		t.Error("the root changed between two openings")
	}
	info, err := os.Stat(filepath.Join(dir, "root.key"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("root.key: mode %v, %v; want 0600", info.Mode(), err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.new")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestKeyWithoutRootIsReplaced(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	if err := os.Remove(filepath.Join(dir, "root.pem")); err != nil { // as after a crash between the two
		t.Fatal(err)
	}
	if _, err := open(t, dir).Leaf("a.test"); err != nil {
		t.Error(err)
	}
}

func TestLeaf(t *testing.T) {
	ca := open(t, t.TempDir())
	roots := x509.NewCertPool()
	roots.AddCert(ca.Root())
	long := strings.Repeat("a23456789.", 12) + "test"
	for _, host := range []string{"app.example.test", "127.0.0.1", "::1", "localhost", long} {
		leaf, err := ca.Leaf(host)
		if err != nil {
			t.Errorf("Leaf(%q): %v", host, err)
			continue
		}
		if _, err := leaf.Leaf.Verify(x509.VerifyOptions{DNSName: host, Roots: roots}); err != nil {
			t.Errorf("Leaf(%q) does not verify: %v", host, err)
		}
		if again, _ := ca.Leaf(host); again != leaf {
			t.Errorf("Leaf(%q) was made twice", host)
		}
	}
	for _, host := range []string{"", "*.example.test", "a b", "../x", strings.Repeat("a", 300)} {
		if _, err := ca.Leaf(host); err == nil {
			t.Errorf("Leaf(%q) was made", host)
		}
	}
}

func TestHandshake(t *testing.T) {
	ca := open(t, t.TempDir())
	roots := x509.NewCertPool()
	roots.AddCert(ca.Root())
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	server := tls.Server(a, &tls.Config{GetCertificate: ca.GetCertificate})
	done := make(chan error, 1)
	go func() { done <- server.Handshake() }()
	if err := tls.Client(b, &tls.Config{ServerName: "App.Example.Test", RootCAs: roots}).Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
