// Package image is the node's image store: it takes OCI and Docker images in
// from registries, archives, layouts and pushes, verifies every digest, and
// keeps one read-only EROFS rootfs per image that all machines of the node
// share.
//
// A reference becomes a rootfs in four steps, each a file of its own: resolve
// (reference → manifest, pull.go), fetch (descriptors → verified blobs,
// fetch.go), flatten (layers → one EROFS file, flatten.go) and record (the
// image's facts as JSON beside it, record.go). Everything is written under a
// temporary name, synced and renamed, so a crash leaves either the old state or
// the new one; New empties what was half-made.
//
// The packages below it do one thing each: blob keeps content by digest, layer
// reads hostile layer archives into a tree that lives in memory, erofs writes
// that tree as a file system, archive reads docker-save and OCI archives,
// registry answers /v2/. A new source of images (say, a builder's output)
// belongs beside import.go and ends in Store.adopt.
//
// It does not run images, choose platforms other than the node's own, or build.
package image
