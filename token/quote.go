package token

import (
	"strconv"

	"github.com/perigee-run/perigee/api"
)

// quote shows what a caller sent, of bounded length.
func quote(s string) string { return strconv.Quote(api.Clip(s)) }
