//go:build linux

package build

import (
	"context"
	"fmt"

	"github.com/docker/cli/cli/config"
	"github.com/moby/buildkit/session/auth"
	"google.golang.org/grpc"
)

const (
	hubHost      = "registry-1.docker.io"
	hubConfigKey = "https://index.docker.io/v1/"
)

// lookup gives the credentials for a host.
type lookup func(host string) (user, secret string)

// keyring answers the builder's questions for registry credentials over the build's session: nothing of them is on
// the builder's disk or command line.
type keyring struct {
	auth.UnimplementedAuthServer
	lookups   []lookup // the first one that knows a host counts; nil knows none
	dockerDir string
}

// Register is called by BuildKit's session.
func (k *keyring) Register(s *grpc.Server) { auth.RegisterAuthServer(s, k) }

// Credentials gives what the node knows for a host, then what Docker's configuration has. No credentials is no error.
func (k *keyring) Credentials(_ context.Context, req *auth.CredentialsRequest) (*auth.CredentialsResponse, error) {
	host, key := req.Host, req.Host
	if host == hubHost {
		host, key = "docker.io", hubConfigKey
	}
	for _, ask := range k.lookups {
		if ask == nil {
			continue
		}
		if user, secret := ask(host); secret != "" {
			return &auth.CredentialsResponse{Username: user, Secret: secret}, nil
		}
	}
	return k.fromDocker(key)
}

// fromDocker reads the file anew each time, so that a docker login counts at once.
func (k *keyring) fromDocker(key string) (*auth.CredentialsResponse, error) {
	dir := k.dockerDir
	if dir == "" {
		dir = config.Dir()
	}
	file, err := config.Load(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot read Docker's credentials: %w", err)
	}
	ac, err := file.GetAuthConfig(key)
	if err != nil {
		return nil, fmt.Errorf("cannot get the credentials for %q: %w", key, err)
	}
	if ac.IdentityToken != "" {
		return &auth.CredentialsResponse{Secret: ac.IdentityToken}, nil
	}
	return &auth.CredentialsResponse{Username: ac.Username, Secret: ac.Password}, nil
}
