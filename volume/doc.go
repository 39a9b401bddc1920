// Package volume is a node's volumes: it makes them, lets one machine use each,
// lets them grow, takes snapshots of them and makes new ones from these, and
// destroys them a day after it is told to.
//
// A volume stays on its node's disk, so it is lost with that disk; its snapshots
// are not, if they are kept in a bucket (package objects). docs/volumes.md says what
// is promised. How an image is kept is package disk's matter, how a snapshot is
// kept package snapshot's. Volumes of all nodes as one are fleet's.
//
// # Who may use a volume
//
// Its machine, and no other: [Store.Attach] writes down whose it is before the
// machine is made, and [Store.Open] mounts it for that machine alone. The machine's
// record is the truth; what a crash left between the two is put right by
// [Store.Settle] once the node knows its machines again.
//
// # What is written when
//
// A volume's record comes before its files and goes after them, so at the start
// files without a finished record are what a crash left, and go. What has neither
// name nor record is never removed: it may be somebody's data. A wish (to grow, to
// be destroyed, a snapshot) is in the record before it is acted on, and [Store.Run]
// carries on with it.
//
// A volume's key is sealed with the node's own, volumes.key, and is never in what
// other nodes are told.
//
// To add an operation: a method in a file of its own that takes the volume's turn
// and changes the record by [Store.save].
package volume
