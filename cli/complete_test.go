package cli

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestComplete: the shell is offered the apps and the machines that there are.
func TestComplete(t *testing.T) {
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/machines") {
			fmt.Fprint(w, `[{"id":"3d8d9014b32789","name":"a","state":"started"}]`)
			return
		}
		fmt.Fprint(w, `{"apps":[{"name":"shop"}],"total_apps":1}`)
	}))
	defer node.Close()
	for want, args := range map[string][]string{
		"shop\n":         {"__complete", "--addr", node.URL, "status", "--app", ""},
		"3d8d9014b32789": {"__complete", "--addr", node.URL, "--app", "shop", "ssh", "console", "--machine", ""},
	} {
		var out bytes.Buffer
		root := Root(&env{IO: IO{Out: &out, Err: &out, In: strings.NewReader("")}})
		root.SetArgs(args)
		if err := root.ExecuteContext(t.Context()); err != nil || !strings.HasPrefix(out.String(), want) {
			t.Errorf("%q: %q %v, want %q", args, out.String(), err, want)
		}
	}
}
