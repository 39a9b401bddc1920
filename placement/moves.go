package placement

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/perigee-run/perigee/catalog"
)

// Moves keeps the records of moves. All nodes read the same ones; a write is
// decided by the revision that it is based on, so of two writers one wins.
type Moves interface {
	List() []MoveRecord
	// Get returns the move of a machine.
	Get(machine string) (MoveRecord, bool)
	// Create fails with [ErrRaced] if there is a move of the machine already.
	Create(ctx context.Context, m Move) error
	// Update fails with [ErrRaced] unless the record has still the revision.
	Update(ctx context.Context, m Move, revision uint64) error
	// Delete fails with [ErrRaced] unless the record has still the revision.
	Delete(ctx context.Context, machine string, revision uint64) error
}

// MoveRecord is a move as it is kept.
type MoveRecord struct {
	Move
	Revision uint64
}

// ErrRaced says that another node has changed the record first.
var ErrRaced = errors.New("another node was quicker")

// MoveTable is Moves in the catalog.
type MoveTable struct{ t *catalog.Table[Move] }

var _ Moves = (*MoveTable)(nil)

// NewMoveTable opens the table of moves. It is opened once per catalog.
func NewMoveTable(c *catalog.Catalog) (*MoveTable, error) {
	t, err := catalog.NewTable[Move](c, "moves")
	return &MoveTable{t}, err
}

// List returns all moves by machine.
func (t *MoveTable) List() []MoveRecord {
	var out []MoveRecord
	for _, e := range t.t.List("") {
		out = append(out, MoveRecord{e.Value, e.Revision})
	}
	return out
}

// Get returns the move of a machine.
func (t *MoveTable) Get(machine string) (MoveRecord, bool) {
	e, ok := t.t.Get(machine)
	return MoveRecord{e.Value, e.Revision}, ok
}

// Of returns the moves that say something of a machine: its own, and that of
// which it replaces.
func (t *MoveTable) Of(p Placed) map[string]Move {
	out := map[string]Move{}
	for _, id := range []string{p.ID, p.Replaces} {
		if e, ok := t.t.Get(id); ok {
			out[id] = e.Value
		}
	}
	return out
}

// Create writes a new move.
func (t *MoveTable) Create(ctx context.Context, m Move) error {
	_, err := t.t.Create(ctx, m.Machine, m)
	return raced(err)
}

// Update writes a move anew.
func (t *MoveTable) Update(ctx context.Context, m Move, revision uint64) error {
	_, err := t.t.Update(ctx, m.Machine, m, revision)
	return raced(err)
}

// Delete removes a move.
func (t *MoveTable) Delete(ctx context.Context, machine string, revision uint64) error {
	return raced(t.t.DeleteAt(ctx, machine, revision))
}

func raced(err error) error {
	if errors.Is(err, catalog.ErrExists) || errors.Is(err, catalog.ErrConflict) {
		return ErrRaced
	}
	return err
}

// Watch sends something whenever a move changes, until ctx ends.
func (t *MoveTable) Watch(ctx context.Context) <-chan struct{} {
	out := make(chan struct{}, 1)
	changes := t.t.Watch(ctx, "")
	go func() {
		defer close(out)
		for range changes {
			select {
			case out <- struct{}{}:
			default:
			}
		}
	}()
	return out
}

// Supersede writes down that the machines, given by id with their nodes, are not
// wanted any more though their nodes cannot be told: they destroy them when they
// come back. It may be repeated.
func Supersede(ctx context.Context, moves Moves, now time.Time, app string, machines map[string]string) error {
	for _, id := range slices.Sorted(maps.Keys(machines)) {
		if err := supersede(ctx, moves, Move{Machine: id, App: app, Reason: Dead, Phase: Replaced, From: machines[id], Begun: now}); err != nil {
			return fmt.Errorf("cannot note that machine %q is superseded: %w", id, err)
		}
	}
	return nil
}

func supersede(ctx context.Context, moves Moves, m Move) error {
	for range tries {
		r, ok := moves.Get(m.Machine)
		var err error
		if !ok {
			err = moves.Create(ctx, m)
		} else {
			err = moves.Update(ctx, r.superseded(), r.Revision)
		}
		if !errors.Is(err, ErrRaced) {
			return err
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return ErrRaced
}

// tries is how often a change that others race with is begun anew.
const tries = 20

// superseded is the move of a machine that nobody wants: a replacement that is
// being made and is not known yet goes as well.
func (m Move) superseded() Move {
	if m.Phase == Open && m.New == "" {
		m = m.leave("")
	}
	m.Phase, m.Left = Replaced, false
	return m
}

// leave makes another node the one that is to have the replacement.
func (m Move) leave(to string) Move {
	if m.To != "" && !slices.Contains(m.Tried, m.To) {
		m.Tried = append(slices.Clone(m.Tried), m.To)
	}
	m.To, m.New = to, ""
	m.Tried = slices.DeleteFunc(slices.Clone(m.Tried), func(n string) bool { return n == to })
	return m
}
