package objects

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
)

func TestDir(t *testing.T) { suite(t, NewDir(filepath.Join(t.TempDir(), "snapshots"))) }

// TestS3 runs against a real server, Versity's gateway over a folder.
func TestS3(t *testing.T) {
	s := startS3(t)
	suite(t, s)
	suite(t, &S3{client: s.client, bucket: s.bucket, prefix: "a/b/"})
	if all, err := List(t.Context(), s, ""); err != nil || len(all) != 0 {
		t.Errorf("left: %q, %v", all, err)
	}
	wrong, err := NewS3(S3Config{Endpoint: s.client.EndpointURL().String(), Bucket: "perigee", Region: "us-east-1", AccessKey: "user", SecretKey: "wrong"})
	if err != nil {
		t.Fatal(err)
	}
	if err := wrong.Put(t.Context(), "x", nil); err == nil {
		t.Error("another secret is let in")
	}
	if _, err := wrong.Get(t.Context(), "x"); err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("a refusal is taken for absence: %v", err)
	}
}

// startS3 starts a server with an empty bucket.
func startS3(t *testing.T) *S3 {
	t.Helper()
	program := filepath.Join(os.Getenv("PERIGEE_BIN"), "versitygw")
	if _, err := os.Stat(program); err != nil || os.Getenv("PERIGEE_BIN") == "" {
		if program, err = exec.LookPath("versitygw"); err != nil {
			t.Skip("needs versitygw, an S3 server; scripts/deps.sh test builds it")
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	cmd := exec.Command(program, "--port", addr, "--access", "user", "--secret", "password", "--quiet", "posix", t.TempDir())
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	s, err := NewS3(S3Config{Endpoint: "http://" + addr, Bucket: "perigee", Region: "us-east-1", AccessKey: "user", SecretKey: "password"})
	if err != nil {
		t.Fatal(err)
	}
	for range 200 {
		if err = s.client.MakeBucket(t.Context(), s.bucket, minio.MakeBucketOptions{}); err == nil {
			return s
		}
		time.Sleep(25 * time.Millisecond)
	}
	t.Fatal(err)
	return nil
}

// suite is what every Store promises.
func suite(t *testing.T, s Store) {
	t.Helper()
	ctx := t.Context()
	if _, err := s.Get(ctx, "none"); !errors.Is(err, ErrNotFound) {
		t.Errorf("an object that is not there: %v", err)
	}
	if err := s.Delete(ctx, "none/at/all"); err != nil {
		t.Errorf("to delete what is not there: %v", err)
	}
	if names, err := List(ctx, s, "chunks/"); err != nil || len(names) != 0 {
		t.Errorf("an empty store lists %q, %v", names, err)
	}
	large := bytes.Repeat([]byte("0123456789abcdef"), 70_000)
	put := map[string][]byte{"chunks/v1/aa": large, "chunks/v1/bb": {}, "chunks/v2/aa": []byte("x"), "snapshots/s1.v1": []byte("m"), "snapshots/s11.v1": []byte("n")}
	for name, data := range put {
		for range 2 {
			if err := s.Put(ctx, name, data); err != nil {
				t.Fatalf("put %s: %v", name, err)
			}
		}
	}
	for name, data := range put {
		if got, err := s.Get(ctx, name); err != nil || !bytes.Equal(got, data) {
			t.Errorf("get %s: %d bytes, %v", name, len(got), err)
		}
	}
	for prefix, want := range map[string][]string{
		"chunks/v1/": {"chunks/v1/aa", "chunks/v1/bb"}, "snapshots/s1.": {"snapshots/s1.v1"}, "snapshots/": {"snapshots/s1.v1", "snapshots/s11.v1"}, "other/": nil,
	} {
		if got, err := List(ctx, s, prefix); err != nil || !slices.Equal(got, want) {
			t.Errorf("list %s: %q, %v", prefix, got, err)
		}
	}
	stop := errors.New("enough")
	if err := s.Walk(ctx, "chunks/", func(string) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("a walk that was ended: %v", err)
	}
	if err := s.Walk(ctx, "chunks/", func(name string) error { return s.Delete(ctx, name) }); err != nil { // while it walks
		t.Errorf("delete: %v", err)
	}
	for name := range put {
		if err := s.Delete(ctx, name); err != nil {
			t.Errorf("delete %s: %v", name, err)
		}
	}
	if names, err := List(ctx, s, "chunks/"); err != nil || len(names) != 0 {
		t.Errorf("after all is deleted: %q, %v", names, err)
	}
	over, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := List(over, s, "chunks/"); s.Shared() && err == nil {
		t.Error("a listing that was called off looks whole")
	}
}

func TestDirRefusesWaysOut(t *testing.T) {
	d := NewDir(t.TempDir())
	for _, name := range []string{"", ".", "../x", "/etc/x", "a//b"} {
		if err := d.Put(t.Context(), name, nil); err == nil {
			t.Errorf("%q is taken", name)
		}
	}
	for _, prefix := range []string{"../", "a/../../x", "/etc/"} {
		if names, err := List(t.Context(), d, prefix); err == nil {
			t.Errorf("%q is listed: %q", prefix, names)
		}
	}
}

func TestConfig(t *testing.T) {
	good := S3Config{Endpoint: "https://s3.example.com", Bucket: "perigee", AccessKey: "a", SecretKey: "s"}
	for name, bad := range map[string]S3Config{
		"endpoint": {Endpoint: "s3.example.com", Bucket: "perigee", AccessKey: "a", SecretKey: "s"},
		"path":     {Endpoint: "https://s3.example.com/perigee", Bucket: "perigee", AccessKey: "a", SecretKey: "s"},
		"bucket":   {Endpoint: good.Endpoint, Bucket: "B", AccessKey: "a", SecretKey: "s"},
		"keys":     {Endpoint: good.Endpoint, Bucket: "perigee"},
	} {
		if _, err := NewS3(bad); err == nil {
			t.Errorf("a bad %s is taken", name)
		}
	}
	if _, err := NewS3(good); err != nil {
		t.Error(err)
	}
	path := filepath.Join(t.TempDir(), "s3")
	os.WriteFile(path, []byte("[default]\naws_access_key_id = AK\naws_secret_access_key=SK=\n"), 0o644)
	if _, _, err := Credentials(path); err == nil {
		t.Error("a file that others can read is taken")
	}
	os.Chmod(path, 0o600)
	if a, s, err := Credentials(path); a != "AK" || s != "SK=" || err != nil {
		t.Errorf("%q %q %v", a, s, err)
	}
	os.WriteFile(path, []byte("nothing"), 0o600)
	if _, _, err := Credentials(path); err == nil {
		t.Error("a file without keys is taken")
	}
}
