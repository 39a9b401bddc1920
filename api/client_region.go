package api

import (
	"context"
	"net/http"
	"net/url"
)

// Regions lists the places where there are nodes. With an app's name, machines
// are counted of that app only.
func (c *Client) Regions(ctx context.Context, app string) (list RegionList, err error) {
	query := url.Values{}
	if app != "" {
		query.Set("app_name", app)
	}
	return list, c.call(ctx, http.MethodGet, pathf("/platform/regions"), query, nil, &list)
}
