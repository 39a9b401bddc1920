package sandbox

import "time"

// Spec describes one sandbox: what runs in it and what it may use.
type Spec struct {
	// ID names the sandbox: 1 to 64 of a-z, A-Z, 0-9, '-', '_', '.', not
	// beginning with a dot. Use a fresh one for each start of a machine.
	ID string `json:"id"`
	// Rootfs is the path of an EROFS file (uncompressed, its size a multiple of
	// 4096). Many sandboxes may share one.
	Rootfs string `json:"rootfs"`
	// Args is the command with its arguments; Args[0] is looked up in PATH.
	Args []string `json:"args"`
	// Env is the environment as KEY=value.
	Env []string `json:"env,omitempty"`
	// Cwd is the working directory; "" means "/". It is made if it is missing.
	Cwd string `json:"cwd,omitempty"`
	// UID, GID and AdditionalGIDs are numbers of the machine's own users.
	UID            uint32   `json:"uid,omitempty"`
	GID            uint32   `json:"gid,omitempty"`
	AdditionalGIDs []uint32 `json:"additional_gids,omitempty"`
	// Hostname is what the machine calls itself.
	Hostname string `json:"hostname,omitempty"`
	// Terminal gives the main process a terminal; its output still goes to
	// Console.
	Terminal bool `json:"terminal,omitempty"`
	// Netns is the path of a network namespace whose devices are up and have
	// their addresses, routes and permanent neighbours; lo must be up too. They
	// are read when the machine starts or is restored, so they may be set after
	// Prepare, and the addresses are taken away from the namespace then: set
	// them again before the next start. "" means loopback only.
	Netns string `json:"netns,omitempty"`
	// Console is a file on the host that receives standard output and error in
	// order. It is opened for appending and made (mode 0600) if missing.
	// "" means the output is dropped.
	Console string `json:"console,omitempty"`
	// Resources are the limits of the whole machine.
	Resources Resources `json:"resources"`
	// WritableDir keeps the writable layer across starts in this directory of
	// the host. "" means the layer is in memory (counted against the memory
	// limit) and gone with the sandbox.
	WritableDir string `json:"writable_dir,omitempty"`
	// ReadOnly makes the root file system read-only.
	ReadOnly bool `json:"read_only,omitempty"`
	// Files are small files written over the image's before the start (hosts,
	// resolv.conf, configuration, secrets). They cost no process and work with
	// the pool, unlike Mounts. A restored snapshot has those it was saved with.
	Files []File `json:"files,omitempty"`
	// Mounts are directories and files of the host, through a file server
	// process of the sandbox's own: volumes.
	Mounts []Mount `json:"mounts,omitempty"`
	// Sockets are unix sockets in the machine that lead to the host.
	Sockets []Socket `json:"sockets,omitempty"`
}

// Socket is a unix stream socket inside the machine. Each connection to it is
// handed to a Door on the host, whatever network the machine has. Of the
// machine's users root and the main process's may connect. Connections are
// closed when the machine is saved; the socket is there again when it is
// restored, and after a restart of the supervisor or of who holds the Door, for
// which connections wait half a minute.
type Socket struct {
	// Path is absolute, with a directory of its own: what the image has in that
	// directory cannot be seen.
	Path string `json:"path"`
	// Host is the Door's path on the host. It may differ in a restored machine.
	Host string `json:"host"`
	// Name is the Visit's.
	Name string `json:"name"`
}

// File is one small file put into the machine's root file system.
type File struct {
	// Path is absolute, inside the machine. Missing directories are made.
	Path string `json:"path"`
	// Mode holds the permission bits; 0 means 0644.
	Mode uint32 `json:"mode,omitempty"`
	UID  uint32 `json:"uid,omitempty"`
	GID  uint32 `json:"gid,omitempty"`
	Data []byte `json:"data"`
}

// Mount shows a directory or file of the host at a path inside the machine.
type Mount struct {
	Source      string `json:"source"`
	Destination string `json:"destination"`
	ReadOnly    bool   `json:"read_only,omitempty"`
}

// Resources are a machine's limits. Zero means unlimited.
type Resources struct {
	// CPUs is a share of processors: 0.5 is half of one.
	CPUs float64 `json:"cpus,omitempty"`
	// MemoryMiB bounds all of the machine's memory, the sandbox's own included.
	MemoryMiB int `json:"memory_mib,omitempty"`
	// MaxMemoryMiB is up to what Limit may raise it; 0 is MemoryMiB.
	MaxMemoryMiB int `json:"max_memory_mib,omitempty"`
	// PIDs bounds the machine's processes and threads. It protects the host, not
	// the machine: gVisor cannot refuse one process too many to the program that
	// asks, so a machine that goes far beyond the limit (four times, and some for
	// the sandbox itself) ends as a whole, with exit code 2.
	PIDs int `json:"pids,omitempty"`
}

// State is where a sandbox is in its life.
type State string

// The states, in the order of a life.
const (
	StatePrepared State = "prepared" // made ahead of need by Prepare
	StateCreated  State = "created"  // being started or restored
	StateRunning  State = "running"
	StatePaused   State = "paused"
	StateStopped  State = "stopped" // the main process has ended; its Exit is kept
)

// Info is one line of List.
type Info struct {
	ID    string `json:"id"`
	State State  `json:"state"`
	// Pid is the sandbox process on the host, 0 when stopped.
	Pid int `json:"pid,omitempty"`
	// StartedAt is when the machine was started or restored.
	StartedAt time.Time `json:"started_at,omitzero"`
	// Exit is set when stopped.
	Exit *Exit `json:"exit,omitempty"`
	// Spec is what the sandbox was started with; nil while prepared.
	Spec *Spec `json:"spec,omitempty"`
}

// Exit tells how a machine's main process ended.
type Exit struct {
	// Code is the exit code; 128+Signal when a signal ended it, and -1 when
	// nobody saw the end (Unknown).
	Code int `json:"code"`
	// Signal is the signal that ended it, or 0.
	Signal int `json:"signal,omitempty"`
	// OOM says that the memory limit was hit and the kernel killed for it.
	OOM bool `json:"oom,omitempty"`
	// Unknown says that the sandbox ended while no supervisor watched.
	Unknown bool `json:"unknown,omitempty"`
	// At is when the end was seen.
	At time.Time `json:"at"`
}

// Stats is a machine's use of the node.
type Stats struct {
	// MemoryBytes is what the machine holds now, the sandbox's own included.
	MemoryBytes uint64 `json:"memory_bytes"`
	// CPUNanos is the processor time used since the start.
	CPUNanos uint64 `json:"cpu_nanos"`
	// PIDs is the number of processes in the machine, 0 if it cannot be asked
	// (paused).
	PIDs int `json:"pids,omitempty"`
}

// Process is one process inside a machine.
type Process struct {
	PID  int    `json:"pid"`
	PPID int    `json:"ppid"`
	UID  uint32 `json:"uid"`
	// Threads is how many threads it has.
	Threads int `json:"threads,omitempty"`
	// CPU is the processor time used, as gVisor prints it ("10ms").
	CPU string `json:"cpu,omitempty"`
	// Started is the time of day it began, as gVisor prints it.
	Started string `json:"started,omitempty"`
	Command string `json:"command"`
}

// ExecSpec is a command to run beside the main process.
type ExecSpec struct {
	// Args is the command with its arguments, or Program's arguments.
	Args []string `json:"args"`
	// Program is one of ours to run instead of the machine's: it need not be in
	// the image. "" means Args[0], looked up in the machine.
	Program Program `json:"program,omitempty"`
	// Env is the whole environment; nil means that of the main process.
	Env []string `json:"env,omitempty"`
	// Cwd "" means that of the main process.
	Cwd string `json:"cwd,omitempty"`
	// User says to run as UID, GID and AdditionalGIDs; false means as the main
	// process.
	User           bool     `json:"user,omitempty"`
	UID            uint32   `json:"uid,omitempty"`
	GID            uint32   `json:"gid,omitempty"`
	AdditionalGIDs []uint32 `json:"additional_gids,omitempty"`
	// Terminal runs the command on a terminal of Size; output and errors then
	// come together on Stdout.
	Terminal bool `json:"terminal,omitempty"`
	Size     Size `json:"size,omitzero"`
}

// Size is a terminal's size in characters.
type Size struct {
	Rows uint16 `json:"rows"`
	Cols uint16 `json:"cols"`
}
