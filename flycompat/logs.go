package flycompat

import (
	"strconv"
	"time"

	"github.com/perigee-run/perigee/api"
)

// page is how many lines one answer holds.
const page = 100

// line is a line of the log in the shape of /api/v1.
type line struct {
	ID         string    `json:"id"`
	Attributes attribute `json:"attributes"`
}

type attribute struct {
	Timestamp string `json:"timestamp"`
	Message   string `json:"message"`
	Level     string `json:"level"`
	Instance  string `json:"instance"`
	Region    string `json:"region"`
	Meta      meta   `json:"meta"`
}

type meta struct {
	Instance string `json:"instance"`
	Region   string `json:"region"`
	Event    struct {
		Provider string `json:"provider"`
	} `json:"event"`
}

// readLogs answers with the newest lines, or with those after the token, which is
// the time of the last line in nanoseconds.
func readLogs(x *asked) (any, error) {
	q := x.r.URL.Query()
	want := api.LogQuery{Machine: q.Get("instance"), Region: q.Get("region"), Lines: page}
	last, _ := strconv.ParseInt(q.Get("next_token"), 10, 64)
	if last > 0 {
		want.Since, want.Lines = time.Unix(0, last+1), 0
	}
	data := []line{}
	for l, err := range x.c.Logs(x.r.Context(), x.r.PathValue("app"), want) {
		if err != nil {
			return nil, err
		}
		if n := l.Time.UnixNano(); n > last {
			last, data = n, append(data, lineOf(l, n))
		}
		if len(data) == 10*page {
			break // the token leads to the others
		}
	}
	token := ""
	if last > 0 {
		token = strconv.FormatInt(last, 10)
	}
	return map[string]any{"data": data, "meta": map[string]string{"next_token": token}}, nil
}

func lineOf(l api.LogLine, n int64) line {
	a := attribute{Timestamp: l.Time.UTC().Format(time.RFC3339Nano), Message: l.Text, Level: "info", Instance: l.Machine, Region: l.Region}
	a.Meta.Instance, a.Meta.Region, a.Meta.Event.Provider = l.Machine, l.Region, provider(l.Source)
	return line{ID: strconv.FormatInt(n, 10) + "-" + l.Machine, Attributes: a}
}

// provider is who speaks, as flyctl shows it: "app", or the platform by name.
func provider(source string) string {
	if source == "platform" {
		return "perigee"
	}
	return "app"
}
