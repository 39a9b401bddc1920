package api

import (
	"context"
	"net/http"
)

// MachineMemory is a machine's memory (GET …/memory).
type MachineMemory struct {
	AvailableMB int `json:"available_mb" doc:"MiB of the limit that it does not hold"`
	LimitMB     int `json:"limit_mb" doc:"MiB that it may hold now"`
}

// SetMemoryRequest bounds a machine's memory anew (PUT …/memory).
type SetMemoryRequest struct {
	LimitMB int `json:"limit_mb" doc:"MiB, up to guest.max_memory_mb; until the machine starts the next time"`
}

// ReclaimMemoryRequest asks for memory back (POST …/memory/reclaim).
type ReclaimMemoryRequest struct {
	AmountMB int `json:"amount_mb" doc:"MiB"`
}

// ReclaimMemoryResponse says how much came back.
type ReclaimMemoryResponse struct {
	ActualMB int `json:"actual_mb" doc:"MiB"`
}

// Memory tells how much memory a machine may hold and how much of it is free.
func (c *Client) Memory(ctx context.Context, app, id string) (m MachineMemory, err error) {
	return m, c.call(ctx, http.MethodGet, machinePath(app, id, "/memory"), nil, nil, &m)
}

// SetMemory bounds a running machine's memory anew until it starts the next time.
func (c *Client) SetMemory(ctx context.Context, app, id string, mb int) (m MachineMemory, err error) {
	return m, c.call(ctx, http.MethodPut, machinePath(app, id, "/memory"), nil, SetMemoryRequest{LimitMB: mb}, &m)
}

// ReclaimMemory takes back memory that a machine can do without, and returns how many
// MiB that were.
func (c *Client) ReclaimMemory(ctx context.Context, app, id string, mb int) (int, error) {
	var r ReclaimMemoryResponse
	err := c.call(ctx, http.MethodPost, machinePath(app, id, "/memory/reclaim"), nil, ReclaimMemoryRequest{AmountMB: mb}, &r)
	return r.ActualMB, err
}
