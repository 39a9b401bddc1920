package httpapi

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/machine"
	"github.com/perigee-run/perigee/token"
	"golang.org/x/sync/errgroup"
)

// maxPage is the most machines that one answer of an org's lists.
const maxPage = 1000

func (s *Server) listRoutes() []route {
	list := []param{
		{"region", "string", "Only machines here"}, {"state", "string", "Only machines in one of these states, with commas between"},
		{"include_deleted", "boolean", "Also those destroyed lately, as long as their nodes remember them"}, {"summary", "boolean", "Without configuration, events and checks"},
		{"include_leases", "boolean", "With who has the lease of each, without the nonce"},
		{"limit", "integer", "At most so many, 1 to 1000; the header fly-next-cursor says that there are more"}, {"cursor", "string", "Go on after the part that gave it"},
		{"metadata.KEY", "object", "Only machines whose metadata has this value under KEY; any number of keys"},
	}
	org := slices.Concat(list[:4], list[5:], []param{{"updated_after", "string", "Only machines that changed after this time (RFC 3339)"}})
	return []route{
		{rGet, pApp + "/machines", reads, "Machines_list", "List the app's machines, oldest first", list, get(s.listMachines).asking()},
		{rGet, "/v1/orgs/{org_slug}/machines", reads, "Machines_org_list", "List the machines of all the org's apps, oldest first", org, get(s.listOrgMachines).asking()},
	}
}

// selection is which machines a call asks for.
type selection struct {
	region               string
	states               []string
	tags                 map[string]string
	after                time.Time
	deleted, brief, held bool
	limit                int
	since                mark
}

func (c *call) selection() (f selection, err error) {
	f.region, f.tags = c.text("region"), tags(c)
	for _, v := range c.query("state") {
		f.states = append(f.states, strings.Split(v, ",")...)
	}
	f.states = slices.DeleteFunc(f.states, func(s string) bool { return s == "" })
	if err := knownStates(f.states); err != nil {
		return f, err
	}
	if f.limit, err = c.int("limit"); err != nil {
		return f, err
	}
	if f.limit < 0 || f.limit > maxPage || f.limit == 0 && c.text("limit") != "" {
		return f, invalid("limit", "limit is %s; it can be 1 to %d", api.Clip(c.text("limit")), maxPage)
	}
	var errs [2]error
	f.deleted, errs[0] = c.bool("include_deleted")
	f.brief, errs[1] = c.bool("summary")
	if err := errors.Join(errs[:]...); err != nil {
		return f, err
	}
	f.since, err = parseMark(c.text("cursor"))
	return f, err
}

func knownStates(given []string) error {
	states := machine.States()
	for _, g := range given {
		if !slices.Contains(states, g) {
			return invalid("state", "there is no state %q; it can be %s", api.Clip(g), strings.Join(states, ", "))
		}
	}
	return nil
}

func (s *Server) listMachines(c *call) ([]api.Machine, error) {
	name, err := s.app(c)
	if err != nil {
		return nil, err
	}
	f, err := c.selection()
	if err != nil {
		return nil, err
	}
	if f.held, err = c.bool("include_leases"); err != nil {
		return nil, err
	}
	org := s.orgOf(name)
	all := slices.DeleteFunc(s.all(c.r.Context(), name, f.deleted), func(m api.Machine) bool { return !c.seesMachine(org, m) })
	out, next := f.cut(f.choose(c, all))
	if next != "" {
		c.w.Header().Set(api.NextCursorHeader, next)
	}
	if f.held {
		return out, s.addLeases(c.r.Context(), out)
	}
	return out, nil
}

func (s *Server) listOrgMachines(c *call) (api.OrgMachines, error) {
	f, err := c.selection()
	if err != nil {
		return api.OrgMachines{}, err
	}
	if v := c.text("updated_after"); v != "" {
		if f.after, err = time.Parse(time.RFC3339Nano, v); err != nil {
			return api.OrgMachines{}, invalid("updated_after", "updated_after is %q; it must be a time such as 2026-01-02T15:04:05Z", api.Clip(v))
		}
	}
	if f.limit == 0 {
		f.limit = maxPage
	}
	ids := s.appsOf(c, c.path("org_slug"))
	org := c.path("org_slug")
	all := slices.DeleteFunc(s.all(c.r.Context(), "", f.deleted), func(m api.Machine) bool { return ids[m.App] == "" || !c.seesMachine(org, m) })
	part, next := f.cut(f.choose(c, all))
	if next != "" {
		c.w.Header().Set(api.NextCursorHeader, next)
	}
	out := api.OrgMachines{Machines: []api.OrgMachine{}, NextCursor: next}
	for _, m := range part {
		out.Machines = append(out.Machines, api.OrgMachine{Machine: m, AppID: ids[m.App], AppName: m.App})
		out.LastMachineID = m.ID
		if m.UpdatedAt.After(out.LastUpdatedAt) {
			out.LastUpdatedAt = m.UpdatedAt
		}
	}
	return out, nil
}

// appsOf are the ids of those apps of an org of which the caller sees something, by name.
func (s *Server) appsOf(c *call, org string) map[string]string {
	ids := map[string]string{}
	for _, a := range s.cfg.Apps.List() {
		if a.Org == org && c.may(token.Want{Class: reads, Org: org, App: a.Name, Each: true}) == nil {
			ids[a.Name] = a.ID
		}
	}
	return ids
}

// graves remembers machines that were destroyed.
type graves interface {
	Deleted(ctx context.Context, app string) []api.Machine
}

// all are the machines of an app, or of all with "", with those that were destroyed
// lately if they are asked for.
func (s *Server) all(ctx context.Context, name string, deleted bool) []api.Machine {
	out := s.cfg.Machines.List(name)
	if g, ok := s.cfg.Machines.(graves); ok && deleted {
		out = append(out, slices.DeleteFunc(g.Deleted(ctx, name), s.formerApp)...)
	}
	slices.SortFunc(out, func(a, b api.Machine) int { return markOf(a).compare(markOf(b)) })
	return out
}

// formerApp reports whether a machine was of an earlier app of the name, which may have
// been another org's.
func (s *Server) formerApp(m api.Machine) bool {
	a, err := s.cfg.Apps.Get(m.App)
	return err != nil || m.CreatedAt.Before(a.CreatedAt)
}

// choose keeps what is asked for, in a list of its own.
func (f selection) choose(c *call, all []api.Machine) []api.Machine {
	out := []api.Machine{}
	for _, m := range all {
		m = shown(c, m)
		if (f.region == "" || m.Region == f.region) && (f.states == nil || slices.Contains(f.states, m.State)) &&
			tagged(m, f.tags) && (f.after.IsZero() || m.UpdatedAt.After(f.after)) && markOf(m).compare(f.since) > 0 {
			out = append(out, m)
		}
	}
	return out
}

// cut keeps the part up to the limit, as short as it was asked for.
func (f selection) cut(all []api.Machine) (part []api.Machine, next string) {
	part = all
	if f.limit > 0 && len(all) > f.limit {
		part = all[:f.limit]
		next = markOf(part[f.limit-1]).String()
	}
	for i := range part {
		if f.brief {
			part[i].Config, part[i].Events, part[i].Checks, part[i].HostStatus = nil, nil, nil, ""
		}
	}
	return part, next
}

// addLeases asks for the lease of each machine; one that has none, or whose node does
// not answer, is shown without.
func (s *Server) addLeases(ctx context.Context, all []api.Machine) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for i := range all {
		g.Go(func() error {
			l, err := s.cfg.Machines.GetLease(ctx, all[i].ID)
			if err == nil {
				l.Nonce = ""
				all[i].Lease = &l
			}
			return ctx.Err()
		})
	}
	return g.Wait()
}

// mark is a place in the order of all machines, which is that of their creation.
type mark struct {
	at int64 // nanoseconds
	id string
}

func markOf(m api.Machine) mark { return mark{m.CreatedAt.UnixNano(), m.ID} }

func (m mark) compare(o mark) int { return cmp.Or(cmp.Compare(m.at, o.at), cmp.Compare(m.id, o.id)) }

// String is the mark as a cursor.
func (m mark) String() string {
	return base64.RawURLEncoding.EncodeToString([]byte(strconv.FormatInt(m.at, 36) + "." + m.id))
}

func parseMark(cursor string) (mark, error) {
	if cursor == "" {
		return mark{at: -1 << 63}, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(cursor)
	at, id, ok := strings.Cut(string(b), ".")
	n, err2 := strconv.ParseInt(at, 36, 64)
	if err != nil || err2 != nil || !ok {
		return mark{}, invalid("cursor", "cursor %q is not one that this API gave", api.Clip(cursor)).WithHint("begin without a cursor")
	}
	return mark{n, id}, nil
}

// tags are the filters metadata.KEY=VALUE, whose names are the client's.
func tags(c *call) map[string]string {
	out := map[string]string{}
	for name, v := range c.r.URL.Query() {
		if key, ok := strings.CutPrefix(name, "metadata."); ok {
			out[key] = v[0]
		}
	}
	return out
}

func tagged(m api.Machine, tags map[string]string) bool {
	for k, v := range tags {
		if m.Config == nil || m.Config.Metadata[k] != v {
			return false
		}
	}
	return true
}
