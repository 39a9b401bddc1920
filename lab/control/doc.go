// Package control is what `perigee lab` and a running lab say to each other: the
// words, and a client of the lab's unix socket. It builds everywhere and does
// nothing to the machine. The next thing to change in a lab is an Op here and a
// line in package lab's apply.
package control
