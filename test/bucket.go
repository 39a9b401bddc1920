package test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// Bucket is a bucket of a real S3 server.
type Bucket struct {
	// Dir is the folder that holds its objects.
	Dir string
	// Flags have a node keep the snapshots of its volumes there, under "lab/".
	Flags []string
}

// StartBucket has start run an S3 server that listens at addr, and returns once dial
// reaches it. Without the program the test skips itself.
func StartBucket(t testing.TB, addr string, start func(program string, args ...string), dial func(network, addr string) (net.Conn, error)) *Bucket {
	t.Helper()
	program := filepath.Join(Programs(t), "versitygw")
	if _, err := os.Stat(program); err != nil {
		t.Skip("needs versitygw, an S3 server; scripts/deps.sh test builds it")
	}
	dir := t.TempDir()
	b, keys := &Bucket{Dir: filepath.Join(dir, "data", "perigee")}, filepath.Join(dir, "keys")
	if err := os.MkdirAll(b.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(keys, []byte("aws_access_key_id = user\naws_secret_access_key = password\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.Flags = []string{"--snapshot-s3-endpoint", "http://" + addr, "--snapshot-s3-bucket", "perigee", "--snapshot-s3-prefix", "lab",
		"--snapshot-s3-region", "us-east-1", "--snapshot-s3-credentials", keys}
	start(program, "--port", addr, "--access", "user", "--secret", "password", "--quiet", "posix", filepath.Dir(b.Dir))
	for range 400 {
		if c, err := dial("tcp", addr); err == nil {
			c.Close()
			return b
		}
		time.Sleep(25 * time.Millisecond)
	}
	t.Fatalf("the S3 server does not listen at %s", addr)
	return nil
}

// Manifests is how many snapshots are in the bucket whose names match the pattern.
func (b *Bucket) Manifests(pattern string) int {
	found, _ := filepath.Glob(filepath.Join(b.Dir, "lab", "snapshots", pattern))
	return len(found)
}

// ownBucket is a bucket for a node of this host.
func ownBucket(t testing.TB) *Bucket {
	t.Helper()
	return StartBucket(t, freeAddr(t), func(program string, args ...string) {
		cmd := exec.Command(program, args...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	}, net.Dial)
}
