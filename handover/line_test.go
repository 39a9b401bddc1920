package handover

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/netip"
	"testing"
	"time"
)

// pair is a line with both its ends in this process.
func pair(t testing.TB) (here, there *line) {
	t.Helper()
	here, there, err := lineHere()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(here.close)
	t.Cleanup(there.close)
	return here, there
}

func TestWords(t *testing.T) {
	here, there := pair(t)
	said := word{Say: sayWoke, ID: "a", Addr: netip.MustParseAddr("fdaa::7"), Err: "no", Busy: map[string]int{"a": 1}}
	if err := here.say(said); err != nil {
		t.Fatal(err)
	}
	if heard, err := there.hear(); err != nil || !same(said, heard) {
		t.Errorf("heard %+v, %v", heard, err)
	}
	here.close()
	if _, err := there.hear(); !hungUp(err) {
		t.Errorf("the other end is gone: %v", err)
	}
	if err := there.say(said); !hungUp(err) {
		t.Errorf("the other end is gone: %v", err)
	}
}

// TestWordsAsTheyAre holds what the version before and the one after can read.
func TestWordsAsTheyAre(t *testing.T) {
	here, there := pair(t)
	for want, w := range map[string]word{
		`{"say":"hello","id":"v2"}`:                           {Say: sayHello, ID: "v2"},
		`{"say":"woke","id":"a","addr":"192.0.2.7"}`:          {Say: sayWoke, ID: "a", Addr: netip.MustParseAddr("192.0.2.7")},
		`{"say":"failed","err":"no"}`:                         {Say: sayFailed, Err: "no"},
		`{"say":"busy","busy":{"a":2}}`:                       {Say: sayBusy, Busy: map[string]int{"a": 2}},
		`{"say":"go"}`:                                        {Say: sayGo},
		`{"say":"want","id":"wire"}`:                          {Say: sayWant, ID: "wire"},
		`{"say":"gave","id":"wire"}`:                          {Say: sayGave, ID: "wire"},
		`{"say":"wake","id":"a"}`:                             {Say: sayWake, ID: "a"},
		`{"say":"ready"}`:                                     {Say: sayReady},
		`{"say":"a word of later","busy":{"a":1},"id":"new"}`: {},
	} {
		if w.Say == "" { // it is heard, and means nothing
			if _, err := here.conn.Write([]byte(want)); err != nil {
				t.Fatal(err)
			}
			if _, err := there.hear(); err != nil {
				t.Error(err)
			}
			continue
		}
		if err := here.say(w); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 200)
		n, err := there.conn.Read(b)
		if got := string(b[:n]); err != nil || got != want+"\n" {
			t.Errorf("said %q, want %q, %v", got, want, err)
		}
	}
}

func same(a, b word) bool {
	return a.Say == b.Say && a.ID == b.ID && a.Addr == b.Addr && a.Err == b.Err && maps.Equal(a.Busy, b.Busy)
}

// TestNoHeritage: an ordinary start needs to ask nowhere whether it is one.
func TestNoHeritage(t *testing.T) {
	t.Setenv(heritageEnv, "")
	h, err := Inherit()
	if h != nil || err != nil {
		t.Fatalf("%v, %v", h, err)
	}
	h.Want(t.Context(), "wire")
	h.Answer(nil)
	h.Fail(errors.New("no"))
	if err := errors.Join(h.Begin(t.Context(), "v1"), h.Ready(), h.AwaitGone(t.Context())); err != nil {
		t.Error(err)
	}
	if !h.Gone() || h.InFlight("a") != 0 || h.Take("lock", "") != nil {
		t.Error("there is something of nobody")
	}
	if all, err := h.Listeners(""); len(all) > 0 || err != nil {
		t.Errorf("%v, %v", all, err)
	}
	opened := errors.New("opened")
	if _, err := h.Listener("web", func() (net.Listener, error) { return nil, opened }); !errors.Is(err, opened) {
		t.Error("it was not opened")
	}
	t.Setenv(heritageEnv, "web,api")
	if _, err := Inherit(); err == nil {
		t.Error("a heritage without a line")
	}
}

// TestAlone: the one before ends, or says nothing, before it has let go.
func TestAlone(t *testing.T) {
	here, there := pair(t)
	h := newHeritage(there, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := h.Begin(ctx, "v2"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nothing is said: %v", err)
	}
	if err := h.AwaitGone(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("it is not gone: %v", err)
	}
	h.Want(ctx, "wire")
	here.close()
	if err := h.AwaitGone(t.Context()); err != nil {
		t.Error(err)
	}
	if err := h.Begin(t.Context(), "v2"); err == nil {
		t.Error("it begins at nobody's word")
	}
	h.Want(t.Context(), "wire") // does not wait
}

// FuzzWords has both ends hear whatever the other may say: they take it or hang
// up, and what they take can be said again.
func FuzzWords(f *testing.F) {
	f.Add([]byte(`{"say":"go"}{"say":"go"}{"say":"gave","id":"wire"}{"say":"gave"}{"say":"gave"}{"say":"gave"}{"say":"gave"}`))
	f.Add([]byte(`{"say":"wake","id":"a"} {"say":"wake","id":"a"} {"say":"busy","busy":{"a":-1}} {"say":"busy","busy":null}`))
	f.Add([]byte(`{"say":"want","id":"wire"}{"say":"want"}{"say":"ready"}{"say":"woke","id":"a","addr":"::1%x"}{"say":"woke","id":"a"}{"say":"want"}`))
	f.Add([]byte(`{"say":"hello"}{"say":"failed","err":"no"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		saidAgain(t, b)
		comer := newHeritage(overhear(t, b), nil)
		comer.Answer(func(context.Context, string) (netip.Addr, error) { return netip.Addr{}, errors.New("no") })
		goer, ended := New(Config{Giver: &former{given: make(chan string, len(b))}}), make(chan struct{})
		goer.asked["a"] = make(chan word, 1)
		go func() {
			defer close(ended)
			l := overhear(t, b)
			_ = goer.attend(t.Context(), l)
			goer.hearHeir(l)
		}()
		for _, end := range []<-chan struct{}{comer.gone, ended} {
			select {
			case <-end:
			case <-time.After(5 * time.Second):
				t.Fatal("one end hears for ever")
			}
		}
	})
}

// saidAgain hears all words, and those that they become when they are said.
func saidAgain(t *testing.T, b []byte) {
	in := overhear(t, b)
	for {
		w, err := in.hear()
		if err != nil {
			return
		}
		a, z := net.Pipe()
		go func() { _ = newLine(a).say(w) }() // ends with the pipe
		again, err := newLine(z).hear()
		if err != nil || !same(w, again) {
			t.Errorf("%+v became %+v, %v", w, again, err)
		}
		a.Close()
	}
}

// overhear is a line on which the bytes come and then its end; what is said there
// is lost.
func overhear(t *testing.T, b []byte) *line {
	a, z := net.Pipe()
	t.Cleanup(func() { a.Close(); z.Close() })
	go func() { _, _ = io.Copy(io.Discard, a) }()
	go func() {
		_, _ = a.Write(b) // it may hang up before
		a.Close()
	}()
	return newLine(z)
}
