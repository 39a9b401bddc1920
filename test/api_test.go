package test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"sync"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
)

// TestAPIOverCrashes kills the daemon in the middle of a lease, a wait and a command; the
// middle of deploys is TestDeploySurvivesACrash's. It goes on with what else of the
// API needs a real node, so that there is one node for all.
func TestAPIOverCrashes(t *testing.T) {
	n := Start(t)
	ctx := t.Context()
	image := n.importImage("calls", Tiny(t))
	m, err := n.Client.CreateMachine(ctx, "calls", api.CreateMachineRequest{Config: &api.MachineConfig{Image: image, Guest: &api.Guest{MemoryMB: 64, MaxMemoryMB: 256}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Run("lease", func(t *testing.T) { leaseOverCrash(t, n, m.ID) })
	t.Run("wait", func(t *testing.T) { waitOverCrash(t, n, m.ID) })
	t.Run("exec", func(t *testing.T) { execOverCrash(t, n, m.ID) })
	t.Run("create", func(t *testing.T) { createOverCrash(t, n, image) })
	t.Run("memory", func(t *testing.T) { memoryForReal(t, n, m.ID) })
	t.Run("certificate", func(t *testing.T) { certificateForReal(t, n) })
	t.Run("many at once", func(t *testing.T) { manyAtOnce(t, n, image) })
}

// leaseOverCrash: the nonce is good after the daemon's return, and keeps others out.
func leaseOverCrash(t *testing.T, n *Node, id string) {
	l, err := n.Client.AcquireLease(t.Context(), "calls", id, api.LeaseRequest{TTL: 60, Description: "over a crash"})
	if err != nil {
		t.Fatal(err)
	}
	n.Kill()
	n.Run()
	if err := n.Client.CordonMachine(t.Context(), "calls", id); !api.IsCode(err, api.CodeConflict) {
		t.Errorf("without the nonce: %v", err)
	}
	mine := n.Client.WithLease(l.Nonce)
	if err := mine.CordonMachine(t.Context(), "calls", id); err != nil {
		t.Errorf("with the nonce: %v", err)
	}
	if again, err := mine.AcquireLease(t.Context(), "calls", id, api.LeaseRequest{TTL: 60}); err != nil || again.Nonce != l.Nonce {
		t.Errorf("prolonged: %+v %v", again, err)
	}
	if err := mine.ReleaseLease(t.Context(), "calls", id); err != nil {
		t.Error(err)
	}
}

// waitOverCrash: the one who waits sees the connection break, and the same wait is met
// when it is repeated.
func waitOverCrash(t *testing.T, n *Node, id string) {
	before, err := n.Client.Events(t.Context(), "calls", id)
	if err != nil {
		t.Fatal(err)
	}
	o := api.WaitOptions{States: []string{api.StateStopped}, FromEvent: before[0].ID, Timeout: 20 * time.Second}
	broke := make(chan error, 1)
	client := n.Client
	go func() {
		_, err := client.WaitMachine(context.Background(), "calls", id, o)
		broke <- err
	}()
	time.Sleep(200 * time.Millisecond)
	n.Kill()
	if err := <-broke; err == nil || api.IsCode(err, api.CodeTimeout) {
		t.Errorf("the wait ended with %v", err)
	}
	n.Run()
	if err := n.Client.StopMachine(t.Context(), "calls", id, api.StopRequest{}); err != nil {
		t.Fatal(err)
	}
	if err := n.Client.StartMachine(t.Context(), "calls", id); err != nil {
		t.Fatal(err)
	}
	if r, err := n.Client.WaitMachine(t.Context(), "calls", id, o); err != nil || r.State != api.StateStopped {
		t.Errorf("the repeated wait: %+v %v", r, err)
	}
}

// execOverCrash: the caller hears of it, the command does not outlive its caller, and the
// machine runs on.
func execOverCrash(t *testing.T, n *Node, id string) {
	broke := make(chan error, 1)
	client := n.Client
	go func() {
		_, err := client.Exec(context.Background(), "calls", id, api.ExecRequest{Command: []string{"/bin/busybox", "sleep", "60"}, Timeout: 90})
		broke <- err
	}()
	time.Sleep(500 * time.Millisecond)
	n.Kill()
	select {
	case err := <-broke:
		if err == nil {
			t.Error("the command ended without an error")
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the caller does not hear that the daemon is gone")
	}
	n.Run()
	m, err := n.Client.GetMachine(t.Context(), "calls", id)
	if err != nil || m.State != api.StateStarted {
		t.Fatalf("the machine is %s, %v", m.State, err)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		ps, err := n.Client.Processes(t.Context(), "calls", id)
		if err == nil && len(ps) == 1 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the command runs on: %+v %v", ps, err)
		}
	}
}

// createOverCrash: a creation whose answer is lost makes one machine when it is sent again.
func createOverCrash(t *testing.T, n *Node, image string) {
	req := api.CreateMachineRequest{Name: "once", IdempotencyKey: "key-1", Config: &api.MachineConfig{Image: image, Guest: &api.Guest{MemoryMB: 64}}}
	done := make(chan struct{})
	client := n.Client
	go func() { defer close(done); _, _ = client.CreateMachine(context.Background(), "calls", req) }()
	time.Sleep(60 * time.Millisecond)
	n.Kill()
	<-done
	n.Run()
	m, err := n.Client.CreateMachine(t.Context(), "calls", req)
	if err != nil || m.State != api.StateStarted {
		t.Fatalf("sent again: %+v %v", m, err)
	}
	all, err := n.Client.ListMachines(t.Context(), "calls")
	if err != nil || len(all) != 2 {
		t.Errorf("%d machines, %v; want 2", len(all), err)
	}
	if err := n.Client.DestroyMachine(t.Context(), "calls", m.ID, true); err != nil {
		t.Error(err)
	}
}

// memoryForReal: the bound that the kernel keeps is the one that was set.
func memoryForReal(t *testing.T, n *Node, id string) {
	now, err := n.Client.SetMemory(t.Context(), "calls", id, 200)
	if err != nil || now.LimitMB != 200 || now.AvailableMB <= 0 || now.AvailableMB >= 200 {
		t.Errorf("raised: %+v %v", now, err)
	}
	if _, err := n.Client.ReclaimMemory(t.Context(), "calls", id, 16); err != nil {
		t.Errorf("reclaimed: %v", err)
	}
	if _, err := n.Client.SetMemory(t.Context(), "calls", id, 257); !api.IsCode(err, api.CodeInvalid) {
		t.Errorf("above the most: %v", err)
	}
}

// certificateForReal: a visitor gets the certificate that the app's owner brought.
func certificateForReal(t *testing.T, n *Node) {
	chain, key := ownCertificate(t, "calls.example.com")
	if _, err := n.Client.ImportCertificate(t.Context(), "calls", api.ImportCertificateRequest{Hostname: "calls.example.com", Fullchain: chain, PrivateKey: key}); err != nil {
		t.Fatal(err)
	}
	names := func() []string {
		c, err := tls.Dial("tcp", n.HTTPS, &tls.Config{ServerName: "calls.example.com", InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].Subject.Organization
	}
	if got := names(); len(got) != 1 || got[0] != "Own Authority" {
		t.Errorf("a visitor gets the certificate of %v", got)
	}
	n.Kill()
	n.Run()
	if got := names(); len(got) != 1 || got[0] != "Own Authority" {
		t.Errorf("after a crash a visitor gets the certificate of %v", got)
	}
}

func ownCertificate(t *testing.T, name string) (chain, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, Subject: pkix.Name{Organization: []string{"Own Authority"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	priv, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: priv}))
}

// manyAtOnce: fifty machines that are made at the same time all run.
func manyAtOnce(t *testing.T, n *Node, image string) {
	var all sync.WaitGroup
	began := time.Now()
	for range 50 {
		all.Go(func() {
			m, err := n.Client.CreateMachine(t.Context(), "calls", api.CreateMachineRequest{Config: &api.MachineConfig{Image: image, Guest: &api.Guest{MemoryMB: 64}}})
			if err != nil || m.State != api.StateStarted {
				t.Errorf("%s %v", m.State, err)
			}
		})
	}
	all.Wait()
	t.Logf("50 machines ran after %s", time.Since(began).Round(time.Millisecond))
	if list, err := n.Client.ListMachines(t.Context(), "calls"); err != nil || len(list) != 51 {
		t.Errorf("%d machines, %v", len(list), err)
	}
}
