package objects

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// S3Config says which bucket is used and how.
type S3Config struct {
	// Endpoint is the server's URL, such as https://s3.eu-central-1.amazonaws.com.
	Endpoint string
	Bucket   string
	// Prefix is put before all names. Default: none.
	Prefix string
	// Region is what the server calls its place. Default: it is asked for.
	Region string
	// AccessKey and SecretKey are the credentials.
	AccessKey, SecretKey string
}

// S3 is a Store in a bucket.
type S3 struct {
	client *minio.Client
	bucket string
	prefix string
}

var _ Store = (*S3)(nil)

var bucketName = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)

// NewS3 checks the configuration. It does not call the server.
func NewS3(cfg S3Config) (*S3, error) {
	u, err := url.Parse(cfg.Endpoint)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return nil, fmt.Errorf("cannot use %q as S3 endpoint: want a URL such as https://s3.eu-central-1.amazonaws.com", cfg.Endpoint)
	case strings.Trim(u.Path, "/") != "":
		return nil, fmt.Errorf("cannot use %q as S3 endpoint: it has a path; name the bucket beside it", cfg.Endpoint)
	case !bucketName.MatchString(cfg.Bucket):
		return nil, fmt.Errorf("cannot use %q as S3 bucket: want 3 to 63 lower-case letters, digits, dots and hyphens", cfg.Bucket)
	case cfg.AccessKey == "" || cfg.SecretKey == "":
		return nil, errors.New("cannot use an S3 bucket without credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a file that holds them")
	}
	client, err := minio.New(u.Host, &minio.Options{
		Creds: credentials.NewStaticV4(cfg.AccessKey, cfg.SecretKey, ""), Secure: u.Scheme == "https", Region: cfg.Region, BucketLookup: minio.BucketLookupAuto,
	})
	if err != nil {
		return nil, fmt.Errorf("cannot use the S3 endpoint %q: %w", cfg.Endpoint, err)
	}
	s := &S3{client: client, bucket: cfg.Bucket, prefix: strings.Trim(cfg.Prefix, "/")}
	if s.prefix != "" {
		s.prefix += "/"
	}
	return s, nil
}

// Shared is true: every node that has the credentials sees the bucket.
func (s *S3) Shared() bool { return true }

// Put implements Store.
func (s *S3) Put(ctx context.Context, name string, data []byte) error {
	_, err := s.client.PutObject(ctx, s.bucket, s.prefix+name, bytes.NewReader(data), int64(len(data)),
		minio.PutObjectOptions{ContentType: "application/octet-stream", DisableMultipart: true})
	return s.fault("write", name, err)
}

// Get implements Store.
func (s *S3) Get(ctx context.Context, name string) ([]byte, error) {
	o, err := s.client.GetObject(ctx, s.bucket, s.prefix+name, minio.GetObjectOptions{})
	if err != nil {
		return nil, s.fault("read", name, err)
	}
	defer o.Close()
	b, err := io.ReadAll(o)
	return b, s.fault("read", name, err)
}

// Walk implements Store.
func (s *S3) Walk(ctx context.Context, prefix string, each func(name string) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // an end before the last one lets the client go
	for o := range s.client.ListObjects(ctx, s.bucket, minio.ListObjectsOptions{Prefix: s.prefix + prefix, Recursive: true}) {
		if o.Err != nil {
			return s.fault("list", prefix, o.Err)
		}
		if err := each(strings.TrimPrefix(o.Key, s.prefix)); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// Delete implements Store.
func (s *S3) Delete(ctx context.Context, name string) error {
	return s.fault("delete", name, s.client.RemoveObject(ctx, s.bucket, s.prefix+name, minio.RemoveObjectOptions{}))
}

func (s *S3) fault(verb, name string, err error) error {
	if err == nil {
		return nil
	}
	if r := minio.ToErrorResponse(err); r.StatusCode == http.StatusNotFound && r.Code == minio.NoSuchKey {
		return fmt.Errorf("%s: %w", name, ErrNotFound)
	}
	return fmt.Errorf("cannot %s object %q in bucket %q: %w", verb, name, s.bucket, err)
}

// Credentials reads access and secret key: from the file, of mode 0600, with lines
// like those of ~/.aws/credentials, or with path "" from the environment.
func Credentials(path string) (access, secret string, err error) {
	if path == "" {
		return os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY"), nil
	}
	fi, err := os.Stat(path)
	if err != nil {
		return "", "", fmt.Errorf("cannot read S3 credentials: %w", err)
	}
	if fi.Mode().Perm()&0o077 != 0 {
		return "", "", fmt.Errorf("cannot use S3 credentials in %s: others can read it (mode %04o); chmod 600 %s", path, fi.Mode().Perm(), path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", "", fmt.Errorf("cannot read S3 credentials: %w", err)
	}
	access, secret = parseCredentials(string(b))
	if access == "" || secret == "" {
		return "", "", fmt.Errorf("cannot use S3 credentials in %s: want lines aws_access_key_id = … and aws_secret_access_key = …", path)
	}
	return access, secret, nil
}

// parseCredentials takes the first of each key.
func parseCredentials(text string) (access, secret string) {
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			continue
		}
		switch value = strings.TrimSpace(value); strings.ToLower(strings.TrimSpace(key)) {
		case "aws_access_key_id":
			access = or(access, value)
		case "aws_secret_access_key":
			secret = or(secret, value)
		}
	}
	return access, secret
}

func or(s, def string) string {
	if s == "" {
		return def
	}
	return s
}
