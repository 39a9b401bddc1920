// Package distance measures how far the other nodes are: every node answers small UDP echoes at its address in the mesh
// and sends one to every other node about once a second.
//
// A probe there and back needs both directions, so that loss on one way alone counts as silence. A node is taken for
// down after about a second and a half of silence and for up again at its first answer.
//
// What it costs: a probe is 24 bytes of payload. A node that carries traffic ([Config.Busy]) is asked twice a second,
// any other once a second and, with more than 200 of them, less often: at most [Config.Rate] probes leave a node each
// second, so that a thousand nodes cost each about 200 packets a second out and as many answers, a few parts in a
// thousand of a core. One goroutine sends, one receives; nobody waits for an answer.
//
// It is not the place that says who the nodes are, nor who decides by distance: the router does, with a [Distance] of
// each. How a single node's silence is judged is in echo.go, as a pure function of times.
package distance
