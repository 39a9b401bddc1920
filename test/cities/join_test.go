//go:build linux

package cities

import (
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/perigee-run/perigee/api"
)

// strangers: servers that may not join are told why, and nothing of them stays;
// one that may joins, once.
func (c *cloud) strangers(string) {
	c.Helper()
	host, err := c.lab.AddHost("stranger", "fra")
	if err != nil {
		c.Fatal(err)
	}
	defer host.Remove()
	expired := c.token(api.CreateJoinTokenRequest{TTL: api.D(time.Second)})
	good, forSyd := c.token(api.CreateJoinTokenRequest{}), c.token(api.CreateJoinTokenRequest{Region: "syd"})
	guessed := strings.Split(good, "-")
	guessed[2] = strings.Repeat("a", len(guessed[2]))
	time.Sleep(1100 * time.Millisecond)

	data := filepath.Join(c.TempDir(), "stranger")
	join := func(dir, token, name string, flags ...string) (string, int) {
		args := append([]string{"join", c.nodes["iad"].Addr4.String(), "--data", dir, "--name", name}, flags...)
		cmd := host.Command(c.Context(), filepath.Join(c.bin, "perigeed"), args...)
		cmd.Env = append(cmd.Environ(), "PERIGEE_JOIN_TOKEN="+token)
		out, err := cmd.CombinedOutput()
		if err != nil && cmd.ProcessState == nil {
			c.Fatal(err)
		}
		return string(out), cmd.ProcessState.ExitCode()
	}
	refused := func(why, dir, token, name string, exit int, want string, flags ...string) {
		c.Helper()
		if out, code := join(dir, token, name, flags...); code != exit || !strings.Contains(out, want) {
			c.Errorf("%s: exit code %d, want %d and %q: %s", why, code, exit, want, out)
		}
	}
	refused("an expired token", data, expired, "newcomer", 4, "expired on")
	refused("a damaged token", data, good[:len(good)-5], "newcomer", 2, "a part of it is missing or changed")
	refused("a guessed token", data, strings.Join(guessed, "-"), "newcomer", 4, "does not know this join token")
	refused("a token for another region", data, forSyd, "newcomer", 4, `is for region "syd"`, "--region", "fra")
	refused("the name of another node", data, good, "syd-1", 5, `there is a node "syd-1" already`)
	if left, _ := os.ReadDir(data); len(left) > 0 {
		c.Errorf("refused joins leave %v", left)
	}
	if out, code := join(data, good, "newcomer"); code != 0 || !strings.Contains(out, "joined as node newcomer in region") {
		c.Fatalf("a good token: exit code %d: %s", code, out)
	}
	refused("a token that was used, in another's hand", data+"2", good, "thief", 4, "was used already, by newcomer")
	refused("a second join of the same server", data, c.token(api.CreateJoinTokenRequest{}), "newcomer", 5, "is the data directory of a node already")
	c.must("iad", "", "node", "remove", "newcomer", "--force")
}

// token is the text of a join token, made at the API of iad.
func (c *cloud) token(req api.CreateJoinTokenRequest) string {
	c.Helper()
	var t api.JoinToken
	c.eventually("iad makes a token", 60*time.Second, func() (ok bool) { // while leaders change it may not
		var err error
		t, err = c.nodes["iad"].Client().CreateJoinToken(c.Context(), req)
		return err == nil
	})
	return t.Token
}
