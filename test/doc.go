// Package test holds the tests of the whole: a real node with real images,
// driven through the command line, the API and the public ports as its users
// do. What they share is the node that they start, in node.go.
//
// They need root, and the programs in the folder that PERIGEE_BIN names (make
// test builds them and sets it); without either they skip themselves.
package test
