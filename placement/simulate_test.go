package placement

import (
	"reflect"
	"testing"

	"github.com/perigee-run/perigee/api"
)

func TestSimulate(t *testing.T) {
	nodes := []Node{
		{Name: "a", Region: "fra", Host: true, Up: true, FreeMemoryMB: 1000, FreeCPUs: 8},
		{Name: "b", Region: "fra", Host: true, Up: true, FreeMemoryMB: 600, FreeCPUs: 8},
		{Name: "c", Region: "syd", Host: true, Up: true, FreeMemoryMB: 512, FreeCPUs: 8},
		{Name: "d", Region: "iad", Host: true, FreeMemoryMB: 9000, FreeCPUs: 8},
	}
	for _, c := range []struct {
		want Want
		n    int
		out  []Room
	}{
		{Want{MemoryMB: 256}, 0, []Room{{"fra", 5, 2}, {"syd", 2, 1}}},
		{Want{MemoryMB: 256, Regions: []string{"syd"}}, 0, []Room{{"syd", 2, 1}}},
		{Want{MemoryMB: 256, Regions: []string{"syd", "fra"}}, 3, []Room{{"fra", 1, 1}, {"syd", 2, 1}}},
		{Want{MemoryMB: 512, Near: "fra"}, 9, []Room{{"fra", 2, 2}, {"syd", 1, 1}}},
		{Want{MemoryMB: 256, CPUs: 8, Near: "syd"}, 1, []Room{{"syd", 1, 1}}},
	} {
		got, err := Simulate(nodes, c.want, c.n)
		if err != nil || !reflect.DeepEqual(got, c.out) {
			t.Errorf("%+v for %d: %v %v, want %v", c.want, c.n, got, err, c.out)
		}
	}
	if _, err := Simulate(nodes, Want{MemoryMB: 5000}, 1); !api.IsCode(err, api.CodeCapacity) {
		t.Errorf("too large for all: %v", err)
	}
	if _, err := Simulate(nodes, Want{Regions: []string{"nrt"}}, 0); !api.IsCode(err, api.CodeInvalid) {
		t.Errorf("no such region: %v", err)
	}
}
