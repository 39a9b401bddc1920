package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/runsc/specutils"
)

// A sandbox process is made before it is known what will run in it. It waits
// at the end of a socket, first for word that it is in its control group, then
// for its claim: one message that carries a memory file with the JSON of claim,
// and the descriptors the JSON counts. It answers with one message: 0 for
// "ready to be started", else 1 and why not.
//
// So an unclaimed process is the same for every machine, and the expensive
// part of its start is behind it.

// claim tells a waiting sandbox process what it is to run.
type claim struct {
	Spec   *specs.Spec
	Mounts []specutils.GoferMountConf
	// GoferFDs and UpperTar say which descriptors follow standard input, output,
	// error and the exit file: the root file system and the gofer's sockets, and
	// the files of the writable layer.
	GoferFDs int
	UpperTar bool
	// Sockets lead to the host, by the line that is the last descriptor then.
	Sockets     []guestSocket
	CPUs        int
	CPUQuota    int64
	CPUPeriod   int64
	MemoryBytes uint64
	HostMemory  uint64
}

// claimFixedFDs is the number of descriptors before the gofer's: the JSON,
// three of standard input and output, and the exit file.
const claimFixedFDs = 5

// claimTimeout bounds the wait for an answer: a sandbox that hangs must not
// hold a start for ever.
const claimTimeout = 30 * time.Second

// sendPlaced tells the process that it is in its control group: what it starts
// from here on is too.
func sendPlaced(conn *net.UnixConn) error {
	if _, err := conn.Write([]byte{0}); err != nil {
		return fmt.Errorf("cannot tell the sandbox to go on: %w", err)
	}
	return nil
}

func awaitPlaced(fd int) error {
	n, _, err := recvmsg(fd, make([]byte, 1), nil)
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err != nil {
		return fmt.Errorf("cannot wait for the control group: %w", err)
	}
	return nil
}

// claimPair makes the two ends; the second is for the sandbox.
func claimPair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make a socket pair: %w", err)
	}
	ours := os.NewFile(uintptr(fds[0]), "claim")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		unix.Close(fds[1])
		return nil, nil, fmt.Errorf("cannot use a socket pair: %w", err)
	}
	return conn.(*net.UnixConn), os.NewFile(uintptr(fds[1]), "claim of the sandbox"), nil
}

// sendClaim hands c and its files over and waits until the sandbox is ready.
func sendClaim(conn *net.UnixConn, c *claim, files []*os.File) error {
	body, err := claimFile(c)
	if err != nil {
		return err
	}
	defer body.Close()
	fds := []int{int(body.Fd())}
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	if err := conn.SetDeadline(time.Now().Add(claimTimeout)); err != nil {
		return fmt.Errorf("cannot bound the claim: %w", err)
	}
	if _, _, err := conn.WriteMsgUnix([]byte{1}, unix.UnixRights(fds...), nil); err != nil {
		return fmt.Errorf("cannot send the claim: %w", err)
	}
	answer := make([]byte, 4096)
	n, err := conn.Read(answer)
	switch {
	case err != nil && !errors.Is(err, io.EOF):
		return fmt.Errorf("no answer to the claim: %w", err)
	case n == 0:
		return errors.New("the sandbox process ended before it was ready")
	case answer[0] != 0:
		return fmt.Errorf("the sandbox refused: %s", answer[1:n])
	}
	return nil
}

func claimFile(c *claim) (*os.File, error) {
	body, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("cannot write the claim: %w", err)
	}
	return memFile("claim", body)
}

// memFile is a file in memory that holds data and is read from its start.
func memFile(name string, data []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("cannot make a memory file: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.Write(data); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot fill a memory file: %w", err)
	}
	return f, nil
}

// receiveClaim waits for the claim on socket fd. The descriptors it returns
// are close-on-exec and in the order of sendClaim, without the JSON's.
func receiveClaim(fd int) (*claim, []int, error) {
	buf, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4*253))
	n, oobn, err := recvmsg(fd, buf, oob)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot receive the claim: %w", err)
	}
	if n == 0 {
		return nil, nil, io.EOF
	}
	fds, err := parseRights(oob[:oobn])
	if err != nil || len(fds) < claimFixedFDs {
		return nil, nil, fmt.Errorf("the claim has %d descriptors: %w", len(fds), err)
	}
	body := os.NewFile(uintptr(fds[0]), "claim")
	defer body.Close()
	var c claim
	if err := json.NewDecoder(body).Decode(&c); err != nil {
		return nil, nil, fmt.Errorf("cannot read the claim: %w", err)
	}
	want := claimFixedFDs + c.GoferFDs
	if c.UpperTar {
		want++
	}
	if len(c.Sockets) > 0 {
		want++
	}
	if len(fds) != want {
		return nil, nil, fmt.Errorf("the claim has %d descriptors, not %d", len(fds), want)
	}
	return &c, fds[1:], noDirectories(fds[1:])
}

// noDirectories makes sure that nothing a machine is given can be walked.
func noDirectories(fds []int) error {
	for _, fd := range fds {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return fmt.Errorf("cannot look at the claim's files: %w", err)
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			return errors.New("the claim holds a directory")
		}
	}
	return nil
}

// recvmsg waits in the kernel, not in Go's poller: the sandbox's seccomp rules
// and its descriptors are settled after the claim.
func recvmsg(fd int, buf, oob []byte) (n, oobn int, err error) {
	for {
		n, oobn, _, _, err = unix.Recvmsg(fd, buf, oob, unix.MSG_CMSG_CLOEXEC)
		if err != unix.EINTR {
			return n, oobn, err
		}
	}
}

func parseRights(oob []byte) ([]int, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var fds []int
	for _, m := range messages {
		got, err := unix.ParseUnixRights(&m)
		if err != nil {
			return nil, err
		}
		fds = append(fds, got...)
	}
	return fds, nil
}

// answerClaim tells the supervisor how it went and closes the socket.
func answerClaim(fd int, err error) {
	message := []byte{0}
	if err != nil {
		message = append([]byte{1}, err.Error()...)
	}
	if len(message) > 4000 {
		message = message[:4000]
	}
	_, _ = unix.Write(fd, message)
	_ = unix.Close(fd)
}
