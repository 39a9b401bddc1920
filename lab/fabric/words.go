package fabric

import "net/netip"

// Route is an anycast prefix as one city routes it.
type Route struct {
	// City is who looks.
	City string `json:"city"`
	// Prefix is what is announced.
	Prefix netip.Prefix `json:"prefix"`
	// Host is the nearest that announces it, "" if none can be reached.
	Host string `json:"host"`
	// Others announce it too.
	Others []string `json:"others,omitempty"`
}

// Stats counts packets since the start. One may be a burst of TCP, up to 64 KB.
type Stats struct {
	// Carried reached a host; Lost fell to a loss rate, Cut to a cut, Full to a
	// full queue; Nowhere had no destination in the lab.
	Carried uint64 `json:"carried"`
	Lost    uint64 `json:"lost"`
	Cut     uint64 `json:"cut"`
	Full    uint64 `json:"full"`
	Nowhere uint64 `json:"nowhere"`
}

// NotFound is the error for a city or a host that is not in the lab.
type NotFound struct{ Words string }

// Error implements error.
func (e NotFound) Error() string { return e.Words }
