// Package space makes what a host of the lab is to the programs on it: network,
// mount, process and host name namespaces of its own.
//
// One thread lives in the namespaces and does there what the lab's own program
// wants to do: make sockets, start programs. Its first child is process 1 of
// the namespace and dies with the thread; the kernel then ends every other
// process and frees the namespaces, so that even a lab that was killed leaves
// nothing running and nothing mounted. No file names a namespace.
//
// It knows nothing of cities and packets: package fabric does.
package space
