// Package snapshot puts images of volumes into an object store, piece by piece,
// and gets them back.
//
// An image is cut into chunks of [ChunkSize]. Those of zeros are left out. A
// chunk's name is a keyed hash of what is in it, so that one which a former
// snapshot of the volume has put there is not put again, and nobody without the
// key can tell what it holds. Chunk and manifest are compressed where that helps
// and sealed (AES-256-GCM) with keys that come from one key of the cloud, so that
// any of its nodes can restore. The store learns sizes and times, and nothing
// else.
//
// The manifest names the chunks and is written last: a snapshot that is there is
// whole. Every chunk is checked against its name when it is read. A snapshot's
// end removes its manifest first and then the chunks that no other snapshot of
// the volume names, so what a crash leaves behind is found by the next one.
//
// One node at a time writes and deletes a volume's snapshots, its owner; any may
// read. docs/formats.md has the format.
package snapshot
