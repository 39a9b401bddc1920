// Package cities holds the tests of clouds of several cities: real nodes in the
// network namespaces of a lab, with the delays of the real distances, and visitors
// in them. What they share is the cloud that they start, in cities_test.go. A test of
// one node belongs in package test.
//
// They wait for elections, for nodes to count as dead and for machines to be made
// anew, minutes in all; make test-cities runs them. They need root, and the programs
// in the folder that PERIGEE_BIN names; without either they skip themselves.
package cities
