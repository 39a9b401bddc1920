package control

import (
	"net/netip"
	"time"

	"github.com/perigee-run/perigee/lab/fabric"
)

// Socket is the name of the unix socket in the lab's directory.
const Socket = "lab.sock"

// Status is what a lab is.
type Status struct {
	Dir    string        `json:"dir"`
	Pid    int           `json:"pid"`
	Since  time.Time     `json:"since"`
	Cities []City        `json:"cities"`
	Hosts  []Host        `json:"hosts"`
	Faults []string      `json:"faults"`
	Stats  fabric.Stats  `json:"stats"`
	RTT    [][]RoundTrip `json:"rtt"`
}

// RoundTrip is in milliseconds.
type RoundTrip float64

// City is one of the lab's.
type City struct {
	Code string `json:"code"`
	Name string `json:"name"`
	// Router and Resolver are the same host: BGP on port 179, DNS on port 53.
	Router4 netip.Addr `json:"router4"`
	Router6 netip.Addr `json:"router6"`
}

// Host is a computer in a city.
type Host struct {
	Name  string     `json:"name"`
	City  string     `json:"city"`
	Addr4 netip.Addr `json:"addr4"`
	Addr6 netip.Addr `json:"addr6"`
	// Pid is its process 1, as seen from outside.
	Pid int `json:"pid"`
	// Node is what runs there, if it is a node.
	Node *Node `json:"node,omitempty"`
}

// Node is a perigeed in the lab.
type Node struct {
	Running bool   `json:"running"`
	Socket  string `json:"socket"`
	Data    string `json:"data"`
	Log     string `json:"log"`
}

// Op is what to change.
type Op string

// What can be changed between A and B; A alone for OpIsolate, neither for
// OpHeal; OpDelegate makes Servers those of zone A.
const (
	OpCut       Op = "cut"
	OpCutOneWay Op = "cut-one-way"
	OpMend      Op = "mend"
	OpIsolate   Op = "isolate"
	OpHeal      Op = "heal"
	OpLoss      Op = "loss"
	OpRTT       Op = "rtt"
	OpJitter    Op = "jitter"
	OpDelegate  Op = "delegate"
)

// Change changes the network.
type Change struct {
	Op    Op            `json:"op"`
	A     string        `json:"a,omitempty"`
	B     string        `json:"b,omitempty"`
	Share float64       `json:"share,omitempty"`
	Delay time.Duration `json:"delay,omitempty"`
	// Servers are name servers, by address and port.
	Servers []netip.AddrPort `json:"servers,omitempty"`
}

// VisitRequest asks for one request of a host, or of a city's visitor.
type VisitRequest struct {
	From string `json:"from"`
	URL  string `json:"url"`
	// ConnectTo is an address that is connected to, whatever the URL says.
	ConnectTo string `json:"connect_to,omitempty"`
	// CA is a PEM file's content that the server's certificate is checked by,
	// beside those the system trusts.
	CA string `json:"ca,omitempty"`
	// Insecure checks no certificate.
	Insecure bool `json:"insecure,omitempty"`
}

// Visit is how long a request took. Times are since its start.
type Visit struct {
	From      string        `json:"from"`
	Remote    string        `json:"remote"`
	Status    int           `json:"status"`
	Lookup    time.Duration `json:"lookup"`
	Connect   time.Duration `json:"connect"`
	TLS       time.Duration `json:"tls,omitempty"`
	FirstByte time.Duration `json:"first_byte"`
	Total     time.Duration `json:"total"`
	Bytes     int64         `json:"bytes"`
}
