package flycompat

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/perigee-run/perigee/api"
)

// routes is what flyctl asks for under /api/v1.
func (s *server) routes() {
	for _, r := range []struct {
		pattern string
		answer  func(x *asked) (any, error)
	}{
		{"GET /api/v1/organizations", listOrgs},
		{"GET /api/v1/organizations/{slug}", showOrg},
		{"POST /api/v1/organizations/{slug}/builders", noBuilder},

		{"POST /api/v1/builds", createBuild},
		{"POST /api/v1/builds/finish", finishBuild},
		{"POST /api/v1/builds/depot_builder", noBuilder},

		{"POST /api/v1/releases", createRelease},
		{"PATCH /api/v1/releases/{id}", updateRelease},
		{"GET /api/v1/releases/all_current", currentReleases},
		{"GET /api/v1/apps/{app}/releases", listReleases},
		{"GET /api/v1/apps/{app}/releases/current", currentRelease},

		{"GET /api/v1/apps/{app}/logs", readLogs},
	} {
		s.rest.HandleFunc(r.pattern, func(w http.ResponseWriter, req *http.Request) {
			v, err := r.answer(&asked{c: s.as(req), r: req, w: w})
			if err != nil {
				fail(w, err)
				return
			}
			write(w, http.StatusOK, v)
		})
	}
	s.rest.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fail(w, api.Errorf(api.CodeNotFound, "%s %s is not among the calls of flyctl that this cloud answers", r.Method, r.URL.Path).
			WithHint("docs/flyctl.md lists what works"))
	})
}

// asked is one request.
type asked struct {
	c *api.Client
	r *http.Request
	w http.ResponseWriter
}

// read reads the body.
func (x *asked) read(v any) error {
	b, err := io.ReadAll(http.MaxBytesReader(x.w, x.r.Body, maxBody))
	if err != nil {
		return api.Errorf(api.CodeBadRequest, "cannot read the body: %v", err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return api.Errorf(api.CodeBadRequest, "cannot read the body: %v", plain(err))
	}
	return nil
}

// plain says what is wrong with a body without speaking of Go.
func plain(err error) error {
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		return fmt.Errorf("%s cannot be a %s", cmp.Or(wrong.Field, "it"), wrong.Value)
	}
	return err
}

func fail(w http.ResponseWriter, err error) {
	e := api.AsError(err)
	if e.Status == 0 {
		e.Status = api.Codes[e.Code]
	}
	if e.Status == 0 {
		e.Status = http.StatusInternalServerError
	}
	write(w, e.Status, e)
}

// orgView is an org in the shape of /api/v1.
type orgView struct {
	ID                 string `json:"id"`
	Number             int64  `json:"internal_numeric_id"`
	Slug               string `json:"slug"`
	RawSlug            string `json:"raw_slug"`
	Name               string `json:"name"`
	Personal           bool   `json:"personal"`
	PaidPlan           bool   `json:"paid_plan"`
	Billable           bool   `json:"billable"`
	BillingStatus      string `json:"billing_status"`
	BetaExtensions     bool   `json:"provisions_beta_extensions"`
	RemoteBuilderImage string `json:"remote_builder_image"`
}

func orgViewOf(o api.Organization) orgView {
	x := organization{o}
	return orgView{ID: o.Slug, Number: int64(number(o.Slug)), Slug: o.Slug, RawSlug: o.Slug, Name: x.Name(), Personal: x.Type() == "PERSONAL",
		PaidPlan: true, Billable: true, BillingStatus: x.BillingStatus()}
}

func listOrgs(x *asked) (any, error) {
	all, err := orgs(x.r.Context(), x.c)
	out := []orgView{}
	for _, o := range all {
		out = append(out, orgViewOf(o))
	}
	return map[string]any{"organizations": out}, err
}

func showOrg(x *asked) (any, error) {
	o, err := org(x.r.Context(), x.c, x.r.PathValue("slug"))
	return map[string]any{"organization": orgViewOf(o)}, err
}

// noBuilder refuses to build: flyctl's remote builders are Fly's own.
func noBuilder(*asked) (any, error) {
	return nil, api.Errorf(api.CodeUnsupported, "this cloud has no builder that flyctl can use").
		WithHint("flyctl deploy --local-only builds with Docker on this machine; perigee deploy builds on the node")
}

// build is one that the client does. Nothing is kept of it: the release says which
// image came of it.
type build struct {
	ID        int64  `json:"id"`
	Status    string `json:"status"`
	Wallclock int    `json:"wallclock_time_ms"`
}

type buildRequest struct {
	App    string `json:"app_name"`
	ID     int64  `json:"build_id"`
	Status string `json:"status"`
}

func createBuild(x *asked) (any, error) {
	var in buildRequest
	if err := x.read(&in); err != nil {
		return nil, err
	}
	_, err := x.c.GetApp(x.r.Context(), in.App)
	return build{ID: time.Now().UnixMilli(), Status: "started"}, err
}

func finishBuild(x *asked) (any, error) {
	var in buildRequest
	if err := x.read(&in); err != nil {
		return nil, err
	}
	_, err := x.c.GetApp(x.r.Context(), in.App)
	return build{ID: in.ID, Status: cmp.Or(in.Status, "completed"), Wallclock: int(max(0, time.Now().UnixMilli()-in.ID))}, err
}

// releaseView is a release in the shape of /api/v1.
type releaseView struct {
	ID         string    `json:"id"`
	Version    int       `json:"version"`
	Stable     bool      `json:"stable"`
	InProgress bool      `json:"in_progress"`
	Status     string    `json:"status"`
	Strategy   string    `json:"strategy"`
	User       string    `json:"user"`
	CreatedAt  time.Time `json:"created_at"`
	Image      string    `json:"image_ref"`
}

func releaseViewOf(r api.Release) releaseView {
	x := release{r}
	return releaseView{ID: releaseID(r), Version: r.Version, Stable: x.Stable(), InProgress: x.InProgress(), Status: r.Status,
		Strategy: x.DeploymentStrategy(), User: userOf(r.User).Email, CreatedAt: r.CreatedAt, Image: r.Image}
}

func createRelease(x *asked) (any, error) {
	var in struct {
		App        string         `json:"app_name"`
		Image      string         `json:"image"`
		Strategy   string         `json:"strategy"`
		Definition map[string]any `json:"definition"`
	}
	if err := x.read(&in); err != nil {
		return nil, err
	}
	r, err := record(x.r.Context(), x.c, in.App, in.Image, in.Strategy, in.Definition)
	return map[string]any{"release": releaseViewOf(r)}, err
}

func updateRelease(x *asked) (any, error) {
	var in struct {
		Status string `json:"status"`
	}
	if err := x.read(&in); err != nil {
		return nil, err
	}
	r, err := conclude(x.r.Context(), x.c, x.r.PathValue("id"), in.Status)
	return releaseViewOf(r), err
}

func listReleases(x *asked) (any, error) {
	limit, _ := strconv.Atoi(x.r.URL.Query().Get("limit"))
	all, err := x.c.ListReleases(x.r.Context(), x.r.PathValue("app"))
	out := []releaseView{}
	for i, r := range all {
		if limit > 0 && i >= limit {
			break
		}
		out = append(out, releaseViewOf(r))
	}
	return map[string]any{"releases": out}, err
}

func currentRelease(x *asked) (any, error) {
	all, err := x.c.ListReleases(x.r.Context(), x.r.PathValue("app"))
	for _, r := range all {
		if r.Status == api.ReleaseComplete {
			return releaseViewOf(r), nil
		}
	}
	if err == nil {
		err = api.Errorf(api.CodeNotFound, "app %q has no release that went out", x.r.PathValue("app"))
	}
	return nil, err
}

// currentReleases says of each app when what runs was released.
func currentReleases(x *asked) (any, error) {
	apps, err := x.c.ListApps(x.r.Context())
	out := map[string]time.Time{}
	for _, a := range apps {
		if a.Release == 0 {
			continue
		}
		if r, err := x.c.GetRelease(x.r.Context(), a.Name, a.Release); err == nil {
			out[a.Name] = r.CreatedAt
		}
	}
	return out, err
}
