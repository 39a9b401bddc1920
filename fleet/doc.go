// Package fleet makes the machines and the logs of many nodes look like one
// node's.
//
// A machine has one owner, the node it is on, and only the owner changes it or
// knows all of it. This room finds the owner of a machine, by the summaries that
// every node publishes of its own, and asks it: directly if it is this node, by
// its API over mutual TLS if it is another. What only lists, or tells the router
// what there is, is answered from the summaries and never waits for anybody.
//
// A call that came from a node is never passed on: the owner answers, or says
// that the machine is not here. So no two nodes with different views can send a
// call in circles.
//
// It does not choose nodes for new machines (placement does, through
// Config.Place), carry requests of visitors (router) or keep what nodes publish
// (catalog).
//
// To pass on one more operation: a method that calls Fleet.on with what is done
// here and what is done there (change.go).
package fleet
