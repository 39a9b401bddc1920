package progress

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func TestRender(t *testing.T) {
	events := []Event{
		{Kind: Started, Step: 1, Name: "[internal] load build definition from Dockerfile"},
		{Kind: Transfer, Step: 1, Item: "transferring", Current: 2, Total: 0},
		{Kind: Done, Step: 1, Seconds: 0.04},
		{Kind: Cached, Step: 2, Name: "[1/3] FROM base"},
		{Kind: Started, Step: 3, Name: "[2/3] RUN make"},
		{Kind: Started, Step: 4, Name: "[other 1/1] RUN test"},
		{Kind: Log, Step: 3, Seconds: 0.314, Stream: "stdout", Text: "cc -o a"},
		{Kind: Log, Step: 3, Seconds: 0.5, Stream: "stderr", Text: ""},
		{Kind: Transfer, Step: 4, Item: "sha256:1", Current: 100, Total: 2_000_000},
		{Kind: Transfer, Step: 4, Item: "sha256:1", Current: 1_000_000, Total: 2_000_000},
		{Kind: Transfer, Step: 4, Item: "sha256:1", Current: 1_000_100, Total: 2_000_000},
		{Kind: Warning, Step: 4, Name: "[other 1/1] RUN test", Text: "old"},
		{Kind: Failed, Step: 3, Name: "[2/3] RUN make", Text: "exit code: 2"},
		{Kind: Canceled, Step: 4, Name: "[other 1/1] RUN test"},
	}
	want := `#1 [internal] load build definition from Dockerfile
#1 DONE 0.0s

#2 [1/3] FROM base
#2 CACHED

#3 [2/3] RUN make

#4 [other 1/1] RUN test

#3 0.31 cc -o a
#3 0.50 

#4 sha256:1 1.00MB / 2.00MB
#4 WARNING: old

#3 ERROR: exit code: 2

#4 CANCELED
`
	var b strings.Builder
	r := NewRenderer(&b)
	for _, e := range events {
		// As the command line gets them.
		data, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		var back Event
		if err := json.Unmarshal(data, &back); err != nil {
			t.Fatal(err)
		}
		r.Render(back)
	}
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

type failing struct{ n int }

var errFull = errors.New("full")

func (f *failing) Write([]byte) (int, error) { f.n++; return 0, errFull }

func TestRenderStopsAtTheFirstError(t *testing.T) {
	var w failing
	r := NewRenderer(&w)
	for range 3 {
		r.Render(Event{Kind: Log, Step: 1})
	}
	if w.n != 1 || !errors.Is(r.Err(), errFull) {
		t.Errorf("%d writes, %v", w.n, r.Err())
	}
}
