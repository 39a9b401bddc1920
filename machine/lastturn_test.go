package machine

import (
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
)

// TestTurnsDoNotDrift: a turn that comes late does not move those after it, and of
// several that were missed the last one counts.
func TestTurnsDoNotDrift(t *testing.T) {
	made := time.Date(2026, 1, 31, 10, 0, 0, 0, time.UTC)
	r := &Record{CreatedAt: made, Config: api.MachineConfig{Schedule: "hourly"}}
	for late, want := range map[time.Duration]time.Duration{
		59 * time.Minute: 0, time.Hour: time.Hour, time.Hour + 5*time.Second: time.Hour, 7*time.Hour + time.Minute: 7 * time.Hour,
	} {
		if got := lastTurn(r, made.Add(late)); !got.Equal(made.Add(want)) {
			t.Errorf("after %s the last turn is %s", late, got)
		}
	}
}
