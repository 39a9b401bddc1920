package api

import "testing"

func TestTagOf(t *testing.T) {
	for ref, want := range map[string]string{
		"": "", "a": "", "a:1": "1", "localhost:5000/a": "", "localhost:5000/a:1": "1", "r/a@sha256:0": "", "localhost:5000/r/a:v1.2@sha256:0": "v1.2", "a:": "",
	} {
		if got := TagOf(ref); got != want {
			t.Errorf("the tag of %q is %q, want %q", ref, got, want)
		}
	}
}
