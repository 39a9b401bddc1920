package flycompat

import (
	"cmp"
	"context"
	"strconv"
	"strings"

	graphql "github.com/graph-gophers/graphql-go"
	"github.com/perigee-run/perigee/api"
)

// release answers questions about one release.
type release struct{ r api.Release }

// releaseID names a release in the whole cloud. No app's name has a dot.
func releaseID(r api.Release) string { return r.App + "." + strconv.Itoa(r.Version) }

// parseReleaseID is the reverse of releaseID.
func parseReleaseID(id string) (app string, version int, err error) {
	app, number, _ := strings.Cut(id, ".")
	version, err = strconv.Atoi(number)
	if err != nil || version < 1 || app == "" {
		return "", 0, api.Errorf(api.CodeNotFound, "there is no release %q", id)
	}
	return app, version, nil
}

// ID names the release in the whole cloud.
func (x *release) ID() graphql.ID { return graphql.ID(releaseID(x.r)) }

// Version is the release's number.
func (x *release) Version() int32 { return int32(x.r.Version) }

// Stable reports whether the release went out.
func (x *release) Stable() bool { return x.r.Status == api.ReleaseComplete }

// InProgress reports whether the release is going out.
func (x *release) InProgress() bool {
	return x.r.Status == api.ReleasePending || x.r.Status == api.ReleaseRunning
}

// Reason is why it failed.
func (x *release) Reason() string { return x.r.Reason }

// Description is who made the release and what for, in words.
func (x *release) Description() string { return cmp.Or(x.r.Description, "Release") }

// Status is what has become of the release.
func (x *release) Status() string { return x.r.Status }

// DeploymentStrategy is the strategy as Fly writes it.
func (x *release) DeploymentStrategy() string { return strings.ToUpper(x.r.Strategy) }

// EvaluationID is of a platform that is no more.
func (x *release) EvaluationID() *string { return nil }

// User is who made the release.
func (x *release) User() *user { return userOf(x.r.User) }

// CreatedAt is when the release was made.
func (x *release) CreatedAt() graphql.Time { return clock(x.r.CreatedAt) }

// ImageRef is the image.
func (x *release) ImageRef() *string { return text(x.r.Image) }

// ConfigDefinition is the definition as it was posted.
func (x *release) ConfigDefinition() *JSON { return object(x.r.Definition) }

type releasesArgs struct {
	First, Last *int32
	Status      *string
}

// Releases are the app's releases, newest first.
func (x *app) Releases(ctx context.Context, args releasesArgs) (connection[*release], error) {
	all, err := caller(ctx).ListReleases(ctx, x.a.Name)
	if err != nil {
		return none[*release](), faulty(err)
	}
	var out []*release
	for _, r := range all {
		if args.First != nil && len(out) >= int(*args.First) {
			break
		}
		if s := value(args.Status); s == "" || s == r.Status {
			out = append(out, &release{r})
		}
	}
	return whole(out), nil
}

// ReleasesUnprocessed is the same: nothing is done to releases afterwards.
func (x *app) ReleasesUnprocessed(ctx context.Context, args releasesArgs) (connection[*release], error) {
	return x.Releases(ctx, args)
}

// current is the newest release that went out, or the newest of all if none did.
func (x *app) current(ctx context.Context) (*release, error) {
	all, err := caller(ctx).ListReleases(ctx, x.a.Name)
	if err != nil || len(all) == 0 {
		return nil, faulty(err)
	}
	for _, r := range all {
		if r.Status == api.ReleaseComplete {
			return &release{r}, nil
		}
	}
	return &release{all[0]}, nil
}

// Release is the release that runs.
func (x *app) Release(ctx context.Context) (*release, error) { return x.current(ctx) }

// CurrentRelease is the release that runs.
func (x *app) CurrentRelease(ctx context.Context) (*release, error) { return x.current(ctx) }

// CurrentReleaseUnprocessed is the same: nothing is done to releases afterwards.
func (x *app) CurrentReleaseUnprocessed(ctx context.Context) (*release, error) { return x.current(ctx) }
