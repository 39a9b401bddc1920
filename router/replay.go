package router

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/perigee-run/perigee/api"
)

// replay is what an app asks for with the answer "fly-replay": to have its request sent elsewhere instead.
type replay struct {
	Regions   []string      // in order of preference; "any" is every region
	Instance  string        // only this machine
	Prefer    string        // this machine if it can
	App       string        // another app of the same organization
	State     string        // opaque, for the one who gets the request
	Elsewhere bool          // not the machine that answered so
	Timeout   time.Duration // how long to try; 0: as long as any request
	Fallback  string        // then: "force_self" or "prefer_self", the machine that answered so; empty: an error

	self    string // the machine that answered so
	selfApp string // its app
}

const (
	maxReplays    = 3       // of one request
	maxReplayBody = 1 << 20 // of a request that is to be replayed
	maxReplayJSON = 16 << 10
)

// parseReplay reads the header form: "region=iad,fra;state=x". A part without a name is of the one before it.
func parseReplay(v string) (*replay, error) {
	r := &replay{}
	for _, part := range strings.Split(v, ";") {
		name, value, ok := strings.Cut(strings.TrimSpace(part), "=")
		if strings.TrimSpace(part) == "" {
			continue
		}
		if !ok {
			return nil, fmt.Errorf("cannot read fly-replay: %q has no \"=\"", api.Clip(part))
		}
		if err := r.set(strings.ToLower(strings.TrimSpace(name)), strings.TrimSpace(value)); err != nil {
			return nil, err
		}
	}
	return r, r.check()
}

func (r *replay) set(name, value string) (err error) {
	switch name {
	case "region":
		r.Regions = splitRegions(value)
	case "instance":
		r.Instance = value
	case "prefer_instance":
		r.Prefer = value
	case "app":
		r.App = value
	case "state":
		r.State = value
	case "elsewhere":
		r.Elsewhere = strings.EqualFold(value, "true")
	case "timeout":
		r.Timeout, err = replayTimeout(value)
	case "fallback":
		r.Fallback = value
	default: // of a newer version
	}
	return err
}

func splitRegions(v string) []string {
	var out []string
	for _, s := range strings.Split(v, ",") {
		if s = strings.ToLower(strings.TrimSpace(s)); s != "" {
			out = append(out, s)
		}
	}
	return out
}

func replayTimeout(v string) (time.Duration, error) {
	d, err := time.ParseDuration(v)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("cannot read fly-replay: timeout %q is no duration like \"5s\"", api.Clip(v))
	}
	return d, nil
}

// parseReplayJSON reads the JSON form, the body of an answer of type application/vnd.fly.replay+json.
func parseReplayJSON(b []byte) (*replay, error) {
	var in struct {
		Region    any    `json:"region"` // a text, or a list of them
		Instance  string `json:"instance"`
		Prefer    string `json:"prefer_instance"`
		App       string `json:"app"`
		State     string `json:"state"`
		Elsewhere bool   `json:"elsewhere"`
		Timeout   string `json:"timeout"`
		Fallback  string `json:"fallback"`
	}
	if err := json.Unmarshal(b, &in); err != nil {
		return nil, fmt.Errorf("cannot read the replay in the answer's body: %w", err)
	}
	r := &replay{Instance: in.Instance, Prefer: in.Prefer, App: in.App, State: in.State, Elsewhere: in.Elsewhere, Fallback: in.Fallback}
	switch v := in.Region.(type) {
	case string:
		r.Regions = splitRegions(v)
	case []any:
		for _, one := range v {
			if s, ok := one.(string); ok {
				r.Regions = append(r.Regions, splitRegions(s)...)
			}
		}
	}
	if in.Timeout != "" {
		var err error
		if r.Timeout, err = replayTimeout(in.Timeout); err != nil {
			return nil, err
		}
	}
	return r, r.check()
}

func (r *replay) check() error {
	if len(r.Regions) == 0 && r.Instance == "" && r.Prefer == "" && r.App == "" && !r.Elsewhere {
		return errors.New("cannot replay: the answer names no region, instance, app or elsewhere")
	}
	if r.Fallback != "" && r.Fallback != "force_self" && r.Fallback != "prefer_self" {
		return fmt.Errorf("cannot read fly-replay: fallback %q is neither force_self nor prefer_self", api.Clip(r.Fallback))
	}
	for _, c := range r.State {
		if c < 0x20 || c == 0x7f {
			return errors.New("cannot read fly-replay: state has control characters")
		}
	}
	return nil
}

// judge applies the wishes to a candidate.
func (r *replay) judge(sp *spot, c *candidate) {
	switch {
	case r.Instance != "" && sp.id != r.Instance, r.Elsewhere && sp.id == r.self:
		c.temper = unfit
	case len(r.Regions) > 0 && !r.inRegion(sp.region):
		c.temper = unfit
	}
	if r.Prefer != "" && sp.id == r.Prefer {
		c.wanted = true
	}
	if len(r.Regions) > 0 && r.first(sp.region) {
		c.favored = true
	}
}

// which names the machines that are meant, in words that follow "machine".
func (r *replay) which() (words string) {
	if r.Instance != "" {
		words = fmt.Sprintf(" %q", api.Clip(r.Instance))
	}
	if len(r.Regions) > 0 {
		words += fmt.Sprintf(" in region %q", api.Clip(strings.Join(r.Regions, ",")))
	}
	if r.Elsewhere {
		words += " elsewhere"
	}
	return words
}

func (r *replay) inRegion(code string) bool {
	return slices.ContainsFunc(r.Regions, func(want string) bool { return regionIs(want, code) })
}

func (r *replay) first(code string) bool { return regionIs(r.Regions[0], code) }

// regionIs says that a region is the one wanted, or in the part of the world that an alias stands for.
func regionIs(want, code string) bool {
	return want == code || want == "any" || want == "earth" || slices.Contains(aliases[want], code)
}

// aliases are names for groups of regions.
var aliases = map[string][]string{
	"usa":  {"atl", "bos", "den", "dfw", "ewr", "iad", "lax", "ord", "phx", "sea", "sjc"},
	"us":   {"atl", "bos", "den", "dfw", "ewr", "iad", "lax", "ord", "phx", "sea", "sjc"},
	"na":   {"atl", "bos", "den", "dfw", "ewr", "gdl", "iad", "lax", "ord", "phx", "qro", "sea", "sjc", "yul", "yyz"},
	"sa":   {"bog", "eze", "gig", "gru", "scl"},
	"eu":   {"ams", "arn", "cdg", "fra", "lhr", "mad", "otp", "waw"},
	"apac": {"bom", "hkg", "maa", "nrt", "sin", "syd"},
	"oc":   {"syd"},
	"af":   {"jnb"},
}

// source is the request's header fly-replay-src: who answered with the replay.
func (r *replay) source(region string, now time.Time) string {
	out := fmt.Sprintf("instance=%s;region=%s;t=%d", r.self, region, now.UnixMicro())
	if r.State != "" {
		out += ";state=" + r.State
	}
	return out
}
