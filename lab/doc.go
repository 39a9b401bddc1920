// Package lab is a small internet on one Linux machine: hosts in cities, each in
// namespaces of its own, joined by a switch that lets packets take as long as
// they would take around the world, and loses or cuts them as told. People use
// it through `perigee lab`, tests, benchmarks and the demo through this package.
//
// Each city has a host of the lab's own, "net-<city>", the first address of the
// city's network: it is where hosts announce anycast prefixes by BGP, and the
// resolver of the city's visitors.
//
// Below it, package fabric is the switch, space the namespaces, upstream BGP's
// other side, resolver the DNS; control is the words that `perigee lab` and a
// running lab speak. It starts the real programs and knows nothing of how they
// work: what a cluster does in it is for its users to say.
package lab
