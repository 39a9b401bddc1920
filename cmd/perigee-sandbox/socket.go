package main

import (
	"reflect"
	"unsafe"

	"gvisor.dev/gvisor/pkg/abi/linux"
	gcontext "gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/control/server"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/seccheck"
	pb "gvisor.dev/gvisor/pkg/sentry/seccheck/points/points_go_proto"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/runsc/boot"
	"gvisor.dev/gvisor/runsc/cmd/util"
)

// A socket of a machine that leads to the host is a file in a small file system
// of its own; who connects to it gets one end of a host's socket pair, and the
// daemon the other. The sandbox may not make sockets itself (its seccomp rules
// are gVisor's): it asks the supervisor for each over a line, see line.go.
//
// So no byte of a connection passes through a process of ours on the way, no
// port of the host is open to machines, and a machine without any network has
// the socket too. The machine's side is in this file, hostconn.go and guestline.go.

// makeSockets puts the sockets into the machine's file system when its first
// process has been made and does not run yet. In a restored machine they are
// already there.
func makeSockets(l *boot.Loader, sockets []guestSocket) {
	if len(sockets) == 0 {
		return
	}
	controlOf(l).Register(&SocketLine{})
	if kernelOf(l).GlobalInit() != nil {
		return
	}
	seccheck.Global.AppendSink(&startSink{l: l, sockets: sockets}, []seccheck.PointReq{{Pt: seccheck.PointContainerStart}})
}

// guestSocket is one socket to make, and who may connect.
type guestSocket struct {
	Path     string
	UID, GID uint32
}

// startSink is called by gVisor at the moment we want.
type startSink struct {
	seccheck.SinkDefaults
	l       *boot.Loader
	sockets []guestSocket
}

// Name implements seccheck.Sink.
func (*startSink) Name() string { return "perigee" }

// ContainerStart implements seccheck.Sink. Nobody looks at what it returns.
func (s *startSink) ContainerStart(gcontext.Context, seccheck.FieldSet, *pb.Start) error {
	k := kernelOf(s.l)
	for _, socket := range s.sockets {
		if err := makeSocket(k, socket); err != nil {
			util.Fatalf("cannot make socket %q: %v", socket.Path, err)
		}
	}
	return nil
}

func makeSocket(k *kernel.Kernel, s guestSocket) error {
	ctx := k.SupervisorContext()
	creds := auth.NewRootCredentials(k.RootUserNamespace())
	root := k.GlobalInit().Leader().MountNamespace().Root(ctx)
	defer root.DecRef(ctx)
	at := &vfs.PathOperation{Root: root, Start: root, Path: fspath.Parse(s.Path)}
	made := &vfs.MknodOptions{Mode: linux.S_IFSOCK | 0o660, Endpoint: &hostDoor{path: s.Path}}
	if err := k.VFS().MknodAt(ctx, creds, at, made); err != nil {
		return err
	}
	owner := linux.Statx{Mask: linux.STATX_UID | linux.STATX_GID, UID: s.UID, GID: s.GID}
	return k.VFS().SetStatAt(ctx, creds, at, &vfs.SetStatOptions{Stat: owner})
}

// gVisor keeps its kernel and its control server to itself.
func kernelOf(l *boot.Loader) *kernel.Kernel {
	return *(**kernel.Kernel)(unsafe.Pointer(field(reflect.ValueOf(l), "k").UnsafeAddr()))
}

func controlOf(l *boot.Loader) *server.Server {
	return *(**server.Server)(unsafe.Pointer(field(field(reflect.ValueOf(l), "ctrl"), "srv").UnsafeAddr()))
}

// field is a field of the struct that pointer points to.
func field(pointer reflect.Value, name string) reflect.Value {
	f := pointer.Elem().FieldByName(name)
	if !f.IsValid() {
		util.Fatalf("this gVisor has no %s.%s", pointer.Type(), name)
	}
	return f
}
