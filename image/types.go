package image

import (
	"log/slog"
	"net/netip"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
)

// Config says where images are kept and what may come in. Only Dir is required.
type Config struct {
	// Dir is the folder of the store; it is made when it is missing. One
	// process at a time may use it.
	Dir string
	// Hosts are the names under which the built-in registry is known, such as
	// "localhost:8280". References to them touch no network but Peers. The first
	// one names imported images. Default "perigee.local".
	Hosts []string
	// IsHost reports whether another name, with its port, is of the built-in registry
	// too, for such as nobody lists. Default: none is.
	IsHost func(name string) bool
	// PlainHTTP lists registry hosts ("host" or "host:port") that may be spoken
	// to without TLS. Loopback and private addresses need not be listed.
	// One with its port may be on this server too.
	PlainHTTP []string
	// Private are the networks of machines. As this server's own addresses, they are
	// reached for no registry, nor where one leads. Default: none.
	Private func() []netip.Prefix
	// Keychain finds registry credentials. Default: docker's and podman's own
	// credential files and helpers.
	Keychain authn.Keychain
	// Overrides maps absolute paths to the content every machine sees there,
	// for instance /etc/resolv.conf. What the image has at that path is replaced.
	Overrides map[string][]byte
	// Xattrs writes extended attributes into the rootfs. gVisor's EROFS reader
	// refuses a file that has any, so the default leaves them out of the rootfs
	// and counts them in Image.DroppedXattrs; set it for rootfs that a real
	// kernel mounts.
	Xattrs bool
	// MaxSize limits the unpacked bytes of one image. Default 32 GiB.
	MaxSize int64
	// MaxFiles limits the entries in all layers of one image. Default 2,000,000.
	MaxFiles int
	// MaxRatio limits how many bytes one compressed byte may become, once a
	// layer has passed 256 MiB. Default 500.
	MaxRatio int64
	// MinFree is what must stay free on the file system of Dir, in bytes.
	// Default: the smaller of 2 GiB and 5% of the file system.
	MinFree int64
	// InUse names the digests that must not be collected: those of machines and
	// of releases that a rollback may need. Default: none. It is called without
	// any lock of the store held.
	InUse func() map[string]bool
	// OnPush is told when a client has pushed a tag to the built-in registry.
	// It must not block. Default: nothing.
	OnPush func(ref, digest string)
	// Peers are the other nodes' stores: what is named by the built-in registry
	// and not here is looked for there. Default: there are none.
	Peers Peers
	// Logger takes the store's few log lines. Default: none are written.
	Logger *slog.Logger
}

// Image is one image on the node, ready to run.
type Image struct {
	// Ref is the reference that was asked for, in full.
	Ref string `json:"ref"`
	// Registry, Repository and Tag are its parts; Tag is empty for a reference
	// by digest.
	Registry   string `json:"registry"`
	Repository string `json:"repository"`
	Tag        string `json:"tag,omitempty"`
	// Digest names the manifest of this platform, "sha256:…".
	Digest string `json:"digest"`
	// Labels are the labels of the image's configuration.
	Labels map[string]string `json:"labels,omitempty"`
	// Config is what the image says about how to run it.
	Config RunConfig `json:"config"`
	// Rootfs is the path of the EROFS file, shared by all machines of the image.
	Rootfs string `json:"rootfs"`
	// Size is the length of Rootfs in bytes, a multiple of 4096.
	Size int64 `json:"size"`
	// DroppedXattrs counts files whose extended attributes are not in Rootfs,
	// see Config.Xattrs.
	DroppedXattrs int `json:"dropped_xattrs,omitempty"`
	// Created is when the image came to this node.
	Created time.Time `json:"created"`
	// LastUsed is when it was last pulled or asked for by digest.
	LastUsed time.Time `json:"last_used"`
}

// RunConfig is the part of an OCI image configuration that says how to run it.
type RunConfig struct {
	Entrypoint   []string     `json:"entrypoint,omitempty"`
	Cmd          []string     `json:"cmd,omitempty"`
	Env          []string     `json:"env,omitempty"`
	User         string       `json:"user,omitempty"`
	WorkingDir   string       `json:"working_dir,omitempty"`
	StopSignal   string       `json:"stop_signal,omitempty"`
	ExposedPorts []string     `json:"exposed_ports,omitempty"` // "8080/tcp", sorted
	Volumes      []string     `json:"volumes,omitempty"`       // absolute paths, sorted
	Healthcheck  *Healthcheck `json:"healthcheck,omitempty"`
	// Shell is what the shell form of later commands runs under.
	Shell []string `json:"shell,omitempty"`
}

// Healthcheck is the image's own HEALTHCHECK. Test is in Docker's form: its
// first word is NONE, CMD or CMD-SHELL.
type Healthcheck struct {
	Test        []string      `json:"test,omitempty"`
	Interval    time.Duration `json:"interval,omitempty"`
	Timeout     time.Duration `json:"timeout,omitempty"`
	StartPeriod time.Duration `json:"start_period,omitempty"`
	Retries     int           `json:"retries,omitempty"`
}

// Phase is what is happening to one layer.
type Phase string

// The phases of a layer, in order. A layer that is on the node already goes
// from Waiting straight to Unpacking; an image that is needs none of them.
const (
	PhaseWaiting     Phase = "waiting"
	PhaseDownloading Phase = "downloading"
	PhaseUnpacking   Phase = "unpacking"
	PhaseDone        Phase = "done"
)

// Progress is one step forward of one layer. Calls for one pull never overlap.
type Progress struct {
	Layer  string // digest of the layer
	Index  int    // its place, 0 is the base
	Layers int    // how many there are
	Phase  Phase
	Done   int64 // compressed bytes that went through the phase so far
	Total  int64 // compressed bytes in all
}

// Collected says what a collection removed.
type Collected struct {
	Images int   `json:"images"`
	Blobs  int   `json:"blobs"`
	Bytes  int64 `json:"bytes"`
	Free   int64 `json:"free"` // bytes free on the file system afterwards
}
