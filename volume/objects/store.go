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
	// Walk calls each with the names that begin with prefix, which ends with '/' or at
	// the end of a name's part, in order, until it returns an error. There may be
	// millions. What is put or deleted meanwhile may be among them or not.
	Walk(ctx context.Context, prefix string, each func(name string) error) error
	// Delete removes an object; one that is not there is no error.
	Delete(ctx context.Context, name string) error
	// Shared says that other nodes see the same objects.
	Shared() bool
}

// List returns the names that begin with prefix, where these are few.
func List(ctx context.Context, s Store, prefix string) (names []string, err error) {
	err = s.Walk(ctx, prefix, func(name string) error { names = append(names, name); return nil })
	return names, err
}

// ErrNotFound says that there is no object of the name.
var ErrNotFound = errors.New("there is no such object")
