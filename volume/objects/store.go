package objects

import (
	"context"
	"errors"
)

// Store keeps objects. Its methods may be called from any goroutine; each may be
// repeated.
type Store interface {
	// Put stores an object. When it has returned nil the object is durable.
	Put(ctx context.Context, name string, data []byte) error
	// Get returns an object; ErrNotFound if there is none of the name.
	Get(ctx context.Context, name string) ([]byte, error)
	// List returns the names that begin with prefix, which ends with '/' or at the
	// end of a name's part, in order.
	List(ctx context.Context, prefix string) ([]string, error)
	// Delete removes an object; one that is not there is no error.
	Delete(ctx context.Context, name string) error
	// Shared says that other nodes see the same objects.
	Shared() bool
}

// ErrNotFound says that there is no object of the name.
var ErrNotFound = errors.New("there is no such object")
