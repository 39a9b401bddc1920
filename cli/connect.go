package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/internal/version"
)

// DefaultSocket is where a node of this machine listens without a token.
const DefaultSocket = "/run/perigee/api.sock"

// login is what the command remembers about the node it talks to.
type login struct {
	Addr  string `json:"addr"`
	Token string `json:"token,omitempty"`
	Data  string `json:"data,omitempty"` // data directory, of a node that `perigee up` started
}

// loginFile is where login is kept, readable by its owner alone.
func loginFile() (string, error) {
	if p := os.Getenv("PERIGEE_LOGIN"); p != "" {
		return p, nil
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("cannot find a folder for the login: %w", err)
	}
	return filepath.Join(dir, "perigee", "login.json"), nil
}

func readLogin() (login, error) {
	var l login
	path, err := loginFile()
	if err != nil {
		return l, nil // no home: flags, environment or the socket decide
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return l, fmt.Errorf("cannot read the login: %w", err)
	}
	if err := json.Unmarshal(b, &l); err != nil {
		return l, hint(fmt.Errorf("cannot read the login %s: %w", path, err), "remove the file, then run perigee login again")
	}
	return l, nil
}

func writeLogin(l login) error {
	path, err := loginFile()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	b, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return err
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, append(b, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// target finds the node: flag, environment, login, then this machine's socket.
func (e *env) target() (addr, token string, err error) {
	l, err := readLogin()
	if err != nil {
		return "", "", err
	}
	addr = first(e.addr, os.Getenv("PERIGEE_ADDR"), l.Addr)
	token = first(e.token, os.Getenv("PERIGEE_TOKEN"))
	if token == "" && addr == l.Addr {
		token = l.Token
	}
	if addr == "" {
		addr = "unix://" + DefaultSocket
	}
	return addr, token, nil
}

// client connects to the node.
func (e *env) client() (*api.Client, error) {
	addr, token, err := e.target()
	if err != nil {
		return nil, err
	}
	c, err := api.NewClient(api.ClientConfig{Addr: addr, Token: token, UserAgent: "perigee/" + version.Version})
	if err != nil {
		return nil, usageError{err}
	}
	return c, nil
}

// forApp connects to the node and finds the app to act on.
func (e *env) forApp() (*api.Client, string, error) {
	app, err := e.appName()
	if err != nil {
		return nil, "", err
	}
	client, err := e.client()
	return client, app, err
}

// unreachable says that no node answered.
type unreachable struct{ error }

func (u unreachable) Unwrap() error { return u.error }

// explain turns errors of the connection into words with a cure; others pass.
func (e *env) explain(err error) error {
	var op *net.OpError
	switch {
	case err == nil, errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, syscall.EACCES):
		addr, _, _ := e.target()
		return hint(unreachable{fmt.Errorf("cannot open %s: permission denied", addr)}, "run the command with sudo, or log in with a token: perigee login http://host:4280")
	case errors.As(err, &op):
		addr, _, _ := e.target()
		return hint(unreachable{fmt.Errorf("no node answers at %s: %w", addr, op.Err)}, "start one here with: sudo perigee up; or point to another with --addr or PERIGEE_ADDR")
	}
	var a *api.Error
	if errors.As(err, &a) && strings.HasPrefix(a.Hint, "GET /") {
		return a.WithHint("perigee apps list shows what there is") // the API's own way of saying it
	}
	if errors.As(err, &a) && a.Code == api.CodeUnauthorized && a.Hint == "" {
		return hint(err, "log in with: perigee login ADDRESS (the token is in the node's data directory, file token)")
	}
	return err
}

func first(s ...string) string {
	for _, v := range s {
		if v != "" {
			return v
		}
	}
	return ""
}
