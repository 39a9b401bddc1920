// Package catalog is the replicated state: what exists, who owns it, where it
// runs. Rooms keep their records here as tables of JSON values under dotted
// keys, and everyone reads them from local memory.
//
// It is not a database for an app's own data, not a queue and not a place for
// large values: a record is at most [MaxRecord] bytes, and every node that
// opens a table holds all of it in memory.
//
// # What is promised
//
//   - Reads ([Table.Get], [Table.List]) come from this process's memory. They
//     never wait for the network or the disk and never fail; with every other
//     node unreachable they answer with the last state that arrived.
//   - A write that returned without error is on disk, synced: neither kill -9 of
//     the daemon nor a power cut loses it. Of a local table, on this node's disk; of
//     a shared one, on those of most members. (With an outside NATS cluster, what an
//     acknowledgement is worth is that cluster's setting.)
//   - A write that returned an error may still have been applied, if the error
//     is the context's, the connection's or [ErrFull]. Create, Update and
//     DeleteAt may be repeated safely: at worst they answer [ErrExists] or [ErrConflict].
//   - On a disk that fills up, writes answer [ErrFull] at once: new records below
//     [Reserve] free bytes, changes and deletes below [LastReserve]. They work
//     again by themselves when there is room, also when the store met the end of
//     the disk. Reads go on.
//   - A node reads its own writes: when a write returns, Get and List on the
//     same Catalog show it, or something newer.
//   - Other nodes see a key's writes in order, each at most once, perhaps only
//     the latest of several. There is no order promised between two keys.
//   - Create and Update are decided by the store, not by local memory: of two
//     nodes that race, exactly one wins. The rule of the house stays that a
//     record is written by its owner alone.
//   - Watch never holds up a writer. A reader that is slow is given the latest
//     value of each key that changed, and misses the ones in between.
//
// Values handed out are shared by all readers: treat them as read-only. Get is
// on the path of every request, so it does not copy. To change a record, build a
// new value (copy the maps and slices that change) and write it.
//
// # How
//
// There are three JetStream key-value buckets. This node's own, in Dir/nats,
// has the tables of [NewLocal]. The members keep two between them, in Dir/state,
// each one Raft group: that of the tables of [NewTable], and that of what nodes
// say of themselves ([NewPublished]). For a node alone the first two are one.
// docs/state.md says what that promises with many nodes.
//
// A bucket holds all its tables, a record under <table>.<key>. One bucket is one
// stream: one set of files, one reader (feed.go) that feeds all tables, and one
// copy on each node's own disk to begin with when no member answers (copy.go). A
// node that is no member has a connection to the nearest one (link.go). A
// revision is the stream's sequence number, so later writes have larger revisions
// across the whole bucket. A deleted key leaves a marker for [markerTTL], and
// then nothing.
//
// The embedded server runs with sync_always: every record is fsynced before it
// is acknowledged. It is the dearer setting (BenchmarkPut: 0.21 ms a write against
// 0.02 ms on a virtual disk whose fsync is quick; expect a few ms where it is
// not), and right here, because records change when machines start, stop or
// deploy, some tens of times a second at the most. Streams that carry volume, such as the logs, opt out for themselves
// with JetStream's asynchronous persist mode.
//
// The place to add the next kind of record is the room that owns it: declare the
// struct there and open its table with [NewTable], [NewLocal] if only this node
// writes and needs it, [NewPublished] if the others need to hear of it.
package catalog
