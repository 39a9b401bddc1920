package sandbox

import (
	"errors"
	"fmt"
	"net/http"
)

// This file is what the Client and the supervisor say to each other: one Call
// as JSON and one answer over HTTP on a unix socket, at CallPath + operation.
// It is not an API for others; both ends are built together.
//
// Exec differs: its answer is an upgrade, after which the client sends one byte
// with the three files of standard input, output and error, and then an
// ExecControl per line. The supervisor sends an ExecResult per line: one when
// the command runs, one when it has ended.

// CallPath is what every operation's URL begins with.
const CallPath = "/v1/"

// ExecUpgrade names the protocol that follows an exec call.
const ExecUpgrade = "perigee-exec"

// Call is the body of every operation; each uses the fields it needs.
type Call struct {
	ID        string    `json:"id,omitempty"`
	Netns     string    `json:"netns,omitempty"`
	Spec      *Spec     `json:"spec,omitempty"`
	From      string    `json:"from,omitempty"`
	Dir       string    `json:"dir,omitempty"`
	Signal    int       `json:"signal,omitempty"`
	Exec      *ExecSpec `json:"exec,omitempty"`
	MemoryMiB int       `json:"memory_mib,omitempty"`
}

// Pong is the answer to a ping: which program the supervisor is.
type Pong struct {
	Pid     int    `json:"pid"`
	Version string `json:"version"`
	// Device and Inode are the program file's.
	Device uint64 `json:"device"`
	Inode  uint64 `json:"inode"`
}

// ExecControl is a line from the client during an exec.
type ExecControl struct {
	// Resized says that the client has set another size on the terminal.
	Resized bool `json:"resized,omitempty"`
	Signal  int  `json:"signal,omitempty"`
}

// ExecResult is a line from the supervisor during an exec.
type ExecResult struct {
	Started bool     `json:"started,omitempty"`
	Code    int      `json:"code"`
	Failure *Failure `json:"failure,omitempty"`
}

// Failure is an error on the wire.
type Failure struct {
	Code    string `json:"code,omitempty"`
	Message string `json:"message"`
}

// failures are the errors that keep their identity on the wire.
var failures = []struct {
	code   string
	status int
	err    error
}{
	{"snapshot", http.StatusUnprocessableEntity, ErrSnapshot},
	{"not_found", http.StatusNotFound, ErrNotFound},
	{"exists", http.StatusConflict, ErrExists},
	{"state", http.StatusConflict, ErrState},
	{"invalid", http.StatusBadRequest, ErrInvalid},
}

// FailureOf puts err on the wire, with the HTTP status to send it with.
func FailureOf(err error) (*Failure, int) {
	for _, f := range failures {
		if errors.Is(err, f.err) {
			return &Failure{Code: f.code, Message: err.Error()}, f.status
		}
	}
	return &Failure{Message: err.Error()}, http.StatusInternalServerError
}

// Err is the error that was put on the wire, or nil.
func (f *Failure) Err() error {
	if f == nil {
		return nil
	}
	for _, known := range failures {
		if f.Code == known.code {
			return &remoteError{message: f.Message, is: known.err}
		}
	}
	return errors.New(f.Message)
}

// remoteError has the supervisor's words and a sentinel's identity.
type remoteError struct {
	message string
	is      error
}

func (e *remoteError) Error() string { return e.message }
func (e *remoteError) Unwrap() error { return e.is }

// unexpected is an answer that the supervisor does not give.
func unexpected(operation string, status int) error {
	return fmt.Errorf("cannot %s: the supervisor answered %d %s", operation, status, http.StatusText(status))
}
