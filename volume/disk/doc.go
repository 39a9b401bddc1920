// Package disk keeps one volume: an ext4 file system in a sparse file of its
// own, whose size is its limit, and whose files are encrypted by fscrypt with a
// key that the caller keeps.
//
// A [Disk] is a folder. image is the file system, mnt is where it is mounted
// while it is used, and data inside of it is what a machine sees: a folder with
// an encryption policy, made when the file system is. The rest (lost+found, and
// how much is used) is not secret.
//
// The mount and its loop device belong to the kernel, not to the process: they
// outlive a daemon that is killed, and Mount finds them again. The loop device is
// of the kind that goes away with its mount, so nothing is left of a volume that
// is not mounted. One image never gets two loop devices, which would be two file
// systems over the same blocks.
//
// It does not know which machine may use a volume, and keeps no keys; that is
// package volume. All of it needs root and Linux, and mkfs.ext4, resize2fs and
// e2fsck of e2fsprogs.
package disk
