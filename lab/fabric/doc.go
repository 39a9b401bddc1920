// Package fabric is the lab's network: one switch in user space that carries IP
// packets between hosts in cities, as late as light in fibre would, and loses,
// delays or refuses them as told.
//
// It knows addresses, cities and routes of anycast prefixes. It does not make
// namespaces (package space), speak BGP (package upstream) or know what runs on
// a host. All packets pass through one thread, which sleeps in the kernel while
// nothing moves; what people change is a new view of the network that the
// thread picks up with the next packet.
package fabric
