package flycompat

import (
	"bufio"
	"fmt"
	"net/http"
	"testing"
	"time"
)

// TestAnswersAreNotGathered: an answer without an end is read from its beginning, and
// ends when who reads has enough.
func TestAnswersAreNotGathered(t *testing.T) {
	ended := make(chan int, 1)
	house := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusAccepted)
		n := 0
		for ; r.Context().Err() == nil; n++ {
			fmt.Fprintln(w, "line", n)
		}
		ended <- n
	})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://house/", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := inside{house, "192.0.2.1:1"}.RoundTrip(req)
	if err != nil || resp.StatusCode != http.StatusAccepted {
		t.Fatal(resp, err)
	}
	if line, err := bufio.NewReader(resp.Body).ReadString('\n'); line != "line 0\n" {
		t.Errorf("%q %v", line, err)
	}
	resp.Body.Close()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("the call goes on")
	}
}

// TestPanicInsideBreaksTheAnswerOff: and not the node.
func TestPanicInsideBreaksTheAnswerOff(t *testing.T) {
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://house/", nil)
	resp, err := inside{http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }), ""}.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := resp.Body.Read(make([]byte, 1)); err == nil {
		t.Error("it has a body")
	}
}
