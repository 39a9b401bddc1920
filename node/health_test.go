package node

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestHealth: a letter is a look, b a bad and g a good one; the verdicts that are
// new follow it.
func TestHealth(t *testing.T) {
	for looks, want := range map[string]string{
		"g":           "g+",
		"bg":          "bg+",
		"bb":          "bb-",
		"gbgbgb":      "g+bgbgb",
		"gbbbggggg":   "g+bb-bggggg+",
		"gbbggggbg":   "g+bb-ggggbg",
		"gbbgggggggb": "g+bb-ggggg+ggb",
	} {
		var h health
		got := ""
		for _, c := range looks {
			got += string(c)
			if h.note(map[rune]string{'b': "the port is shut"}[c]) {
				got += map[bool]string{true: "+", false: "-"}[h.why == ""]
			}
		}
		if got != want {
			t.Errorf("%s: got %s, want %s", looks, got, want)
		}
	}
}

func TestAnswers(t *testing.T) {
	good := httptest.NewServer(http.NotFoundHandler())
	defer good.Close()
	if err := answers(t.Context(), good.Listener.Addr().String()); err != nil {
		t.Error(err)
	}
	hung, err := net.Listen("tcp", "127.0.0.1:0") // and nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	if err := answers(t.Context(), hung.Addr().String()); err == nil || !strings.Contains(err.Error(), "does nothing") {
		t.Errorf("a server that hangs: %v", err)
	}
	hung.Close()
	if err := answers(t.Context(), hung.Addr().String()); err == nil {
		t.Error("a closed port answers")
	}
}

// TestPersist: a fault is told while it lasts and ends nothing.
func TestPersist(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &Node{log: slog.New(slog.DiscardHandler)}
		ctx, cancel := context.WithCancel(t.Context())
		runs, ended := 0, make(chan struct{})
		go func() {
			defer close(ended)
			n.persist(ctx, "bgp", func(ctx context.Context) error {
				if runs++; runs < 3 {
					return errors.New("no way to the neighbor")
				}
				<-ctx.Done()
				return nil
			})
		}()
		synctest.Wait()
		if p := n.edgeProblems(); len(p) != 1 || p[0].Name != "bgp" || p[0].Fault != "no way to the neighbor" {
			t.Errorf("problems: %+v", p)
		}
		time.Sleep(2*faultRest + time.Second)
		if p := n.edgeProblems(); runs != 3 || len(p) != 0 {
			t.Errorf("after %d runs: %+v", runs, p)
		}
		cancel()
		<-ended
	})
}
