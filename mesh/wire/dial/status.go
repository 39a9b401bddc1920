package dial

import (
	"strconv"
	"strings"
	"time"
)

// lastHandshake reads WireGuard's own account of its one peer.
func lastHandshake(text string) time.Time {
	for l := range strings.Lines(text) {
		value, ok := strings.CutPrefix(strings.TrimSpace(l), "last_handshake_time_sec=")
		if !ok {
			continue
		}
		if sec, err := strconv.ParseInt(value, 10, 64); err == nil && sec > 0 {
			return time.Unix(sec, 0)
		}
	}
	return time.Time{}
}
