// Package logs is what machines say, and what the platform says about them: one
// JetStream stream, LOGS, with the subject logs.<app>.<region>.<machine>
// (DESIGN.md, journey 5).
//
// [Collector] follows the console file of each machine on this node and ships
// its lines. [Store] appends the platform's own lines and reads: the last lines,
// then the live ones. It is not for metrics, not for search, and not the way to
// another logging system (a shipper reads the stream like everyone else).
//
// # What is promised
//
//   - What a machine wrote is shipped once it is in its console file, however
//     long the daemon is dead meanwhile. After kill -9 or a power cut the
//     collector goes on where the stream ends: nothing is lost, nothing doubled.
//   - Lines of one machine stay in order. Lines are at most [MaxLine] bytes
//     (longer ones are cut into several), and valid UTF-8 (other bytes become
//     U+FFFD). A line that was not ended is shipped after [PartialWait].
//   - Memory is bounded: one batch of 64 KiB per machine that is being read, and
//     at most 64 of them. Disk is bounded: what is safe in the stream is cut out
//     of the console file as a hole, and at most CollectorConfig.MaxBacklog waits
//     to be shipped. More than that is dropped, oldest first, and a line in the
//     log says how many bytes.
//   - The stream keeps Config.MaxBytes and Config.MaxAge, whichever ends first,
//     all apps together.
//
// # How
//
// A message is a batch: the lines of one machine that were there at one reading,
// joined by newlines, at most one batch each 20 ms. Headers hold the time, the
// source, and the place in the console file.
//
// The stream opts out of fsync per message, so an acknowledged batch is safe only
// after catalog.SyncInterval. The collector therefore waits longer than that
// before it cuts a hole and remembers the place (in <console file>.offset). At
// start it looks at what the stream holds after that place and goes on behind it.
//
// The console file may be truncated while it is followed (shipping starts at 0
// again), but must not be replaced by another file or rewritten in place.
//
// The place to add the next thing to read by is [Query].
package logs
