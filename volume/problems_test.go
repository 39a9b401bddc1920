package volume

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
)

// TestProblemsOfOtherKindsStay when one is solved, or another comes.
func TestProblemsOfOtherKindsStay(t *testing.T) {
	k := newFakes(t)
	v := k.volume(1)
	k.complain(t.Context(), v, "its files are gone from the node")
	k.solve(t.Context(), v, snapshotProblem)
	if v.now().Problem == "" {
		t.Error("a stored snapshot wipes another problem")
	}
	k.complain(t.Context(), v, snapshotProblem+"x\n of two lines")
	k.complain(t.Context(), v, growthProblem+"y")
	k.complain(t.Context(), v, snapshotProblem+"z")
	if got := k.look(v).Problem; got != "its files are gone from the node; snapshots: z; growth: y" {
		t.Errorf("noted: %q", got)
	}
	k.solve(t.Context(), v, snapshotProblem)
	k.solve(t.Context(), v, growthProblem)
	if p := v.now().Problem; p != "its files are gone from the node" {
		t.Errorf("left: %q", p)
	}
}

// TestProblemsComeToRest: a volume that waits for a restart and whose snapshot cannot
// be stored says both, and is not written down again and again.
func TestProblemsComeToRest(t *testing.T) {
	k := newFakes(t)
	v := k.volume(1)
	k.disk(v.id).set(func(f *fake) { f.still = true })
	k.objects.fail(errors.New("the bucket is away"), 0)
	if _, err := k.Open(t.Context(), v.id, "m1"); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Extend(t.Context(), "shop", v.id, api.ExtendVolumeRequest{SizeGB: 2}); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Snapshot(t.Context(), "shop", v.id); err != nil {
		t.Fatal(err)
	}
	defer k.run()()
	within(t, "it says both", func() bool {
		p := v.now().Problem
		return strings.Contains(p, "started next") && strings.Contains(p, "the bucket is away")
	})
	records := k.cfg.Records.(*table)
	before := records.written()
	time.Sleep(100 * time.Millisecond) // 20 times what is due by itself is looked at
	if n := records.written() - before; n > 0 {
		t.Errorf("its record was written %d times", n)
	}
}
