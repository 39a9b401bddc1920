package fleet

import "context"

// Caller is who began a call.
type Caller struct {
	// Name is shown to others, as the owner of a lease for example.
	Name string
	// Node passed the call on to this one; "" if it came from outside.
	Node string
}

type callerKey struct{}

// WithCaller says in the context who began the call. The API does it.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// CallerOf is who began the call; nobody where nothing was said, which is this
// node itself.
func CallerOf(ctx context.Context) Caller {
	c, _ := ctx.Value(callerKey{}).(Caller)
	return c
}

// forwarded reports whether another node passed the call on: it ends here.
func forwarded(ctx context.Context) bool { return CallerOf(ctx).Node != "" }
