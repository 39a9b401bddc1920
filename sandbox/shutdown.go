package sandbox

import (
	"context"
	"errors"
)

// Shutdown ends the supervisor and its prepared sandboxes. Machines run on and
// are found by the next supervisor. One that is not there is no error.
func (c *Client) Shutdown(ctx context.Context) error {
	if err := c.send(ctx, "shutdown", Call{}, nil); err != nil && !errors.Is(err, errLost) {
		return err
	}
	return nil
}
