package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/perigee-run/perigee/cluster"
	"github.com/perigee-run/perigee/flycompat"
	"github.com/perigee-run/perigee/httpapi"
	"github.com/perigee-run/perigee/sandbox"
	"golang.org/x/sync/errgroup"
)

// faces are the listeners of the API and of the built-in registry.
type faces struct {
	tcp, unix   net.Listener
	server      *httpapi.Server
	remote, own http.Handler // with a token, and for root of this server
	door        net.Listener // of this node's machines
	inside      http.Handler // for them
	guests      *guests
	peer        net.Listener // nil for a node alone
	nodes       *cluster.Server
}

// openAPI takes the API's addresses, so that a clash is known before anything
// runs.
func (n *Node) openAPI(context.Context) (err error) {
	server, err := httpapi.New(httpapi.Config{
		Apps: n.apps, Deploys: n.deploys, Machines: n.fleet, Images: n.images, Node: n, Builder: builder{n}, Volumes: n.allVolumes, Logs: n.lines, Peers: n.peerStore(),
		Cluster: n.cluster, Regions: n, Placer: n, Address: n.address, ImagesInUse: n.imagesInUse, Logger: n.log,
		Tokens: n.tokens, Issuer: n.issuer, Audit: auditor{n},
		SSH: n.fleet, SSHAuthority: n.shells.Authority(),
	})
	if err != nil {
		return err
	}
	server.Certify(certificateView{n})
	server.Limit(n.cfg.APIRate)
	f := &faces{server: server, remote: n.face(server, httpapi.Tokens{Root: httpapi.Token(n.token), Store: n.tokens}), own: n.face(server, httpapi.Trust("root"))}
	if f.tcp, err = n.listen(apiName, func() (net.Listener, error) { return net.Listen("tcp", n.cfg.Listen) }); err != nil {
		return fmt.Errorf("cannot open the API: %w; choose another address with --listen", err)
	}
	if f.unix, err = n.listen(socketName, func() (net.Listener, error) { return listenUnix(n.cfg.Socket) }); err != nil {
		f.tcp.Close()
		return err
	}
	if f.door, err = n.listen(doorName, func() (net.Listener, error) { return sandbox.ListenDoor(n.path("door.sock")) }); err != nil {
		f.close()
		return err
	}
	f.guests = &guests{n: n}
	f.inside = n.face(server, f.guests)
	f.nodes = n.cluster.Server(n.peerFace(server))
	if f.peer, err = n.listenPeers(); err != nil {
		f.close()
		return err
	}
	n.api = f
	return nil
}

// listen opens a socket, or takes the predecessor's, and keeps it for a successor.
func (n *Node) listen(name string, open func() (net.Listener, error)) (net.Listener, error) {
	l, err := n.cfg.heritage.Listener(name, open)
	if err == nil {
		n.next.Keep(name, l)
	}
	return l, err
}

// face is the API, with flyctl's calls in front, and the registry, for those whom
// who lets in.
func (n *Node) face(server *httpapi.Server, who httpapi.Authenticator) http.Handler {
	rest := flycompat.Wrap(server.Handler(who))
	visitor := n.passes.passOr(who)
	registry := n.images.Registry(func(r *http.Request) error {
		return n.mayRegistry(visitor, r)
	})
	return httpapi.SameSite(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2" || strings.HasPrefix(r.URL.Path, "/v2/") {
			kept := &httpapi.Recorder{ResponseWriter: w}
			by, _ := visitor.Authenticate(r) // nobody, where it fails; before, for a push may outlast its token
			registry.ServeHTTP(kept, r)
			n.auditPush(r, by, kept.Status)
			return
		}
		rest.ServeHTTP(w, r)
	}))
}

// listenUnix opens a socket that only this user can reach. What a killed node
// left is replaced; the data directory's lock says that none is alive.
func listenUnix(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("cannot open the API's socket: %w", err)
	}
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return nil, fmt.Errorf("cannot open the API's socket: another node answers at %s; choose another with --socket", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("cannot open the API's socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("cannot open the API's socket: %w; choose another with --socket", err)
	}
	return l, os.Chmod(path, 0o600)
}

// Run serves until ctx ends; calls in progress get a moment to finish.
func (f *faces) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return f.server.Run(ctx) })
	for _, face := range []struct {
		on      net.Listener
		handler http.Handler
		enter   func(context.Context, net.Conn) context.Context
	}{{f.tcp, f.remote, nil}, {f.unix, f.own, nil}, {newLobby(f.door), f.inside, f.guests.enter}} {
		server := &http.Server{Handler: face.handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
			BaseContext: func(net.Listener) context.Context { return ctx }, ConnContext: face.enter}
		g.Go(func() error {
			if err := server.Serve(face.on); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
		g.Go(func() error {
			<-ctx.Done()
			last, cancel := context.WithTimeout(context.Background(), 3*time.Second)
			defer cancel()
			if err := server.Shutdown(last); err != nil {
				return server.Close()
			}
			return nil
		})
	}
	if f.peer != nil {
		g.Go(func() error { return f.nodes.Run(ctx, f.peer) })
	}
	return g.Wait()
}

func (f *faces) close() {
	f.tcp.Close()
	f.unix.Close()
	if f.door != nil {
		f.door.Close()
	}
	if f.peer != nil {
		f.peer.Close()
	}
}
