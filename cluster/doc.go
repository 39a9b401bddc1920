// Package cluster is who belongs to the cloud: the authority that certifies
// nodes, the tokens by which new ones join, the record of each node, and the
// mutually authenticated calls between them.
//
// It keeps no state of apps and machines, moves none when a node drains, and
// does not find out who is alive: it records what was decided about nodes, and
// says who is calling. The secrets that all nodes share pass through a join as
// files that it does not look into.
//
// # Files
//
// <data>/cluster holds ca.pem (the authority's certificate), ca.key (its key,
// on nodes with the role state alone), node.pem (this node's key and
// certificate), cluster.json (who this node is) and nodes.json (the nodes as
// last heard of, to start without the others). A directory is made beside it
// and renamed, so it is there whole or not at all.
//
// # Wiring
//
//	cl, err := cluster.Open(cluster.Config{Dir: data, Name: name, Region: region,
//		Version: version, Bundle: sharedFiles, Status: status, Logger: log})
//	cat, err := catalog.Open(ctx, …cl.Self(), cl.StateURLs(), cl.RouteURLs(),
//		cl.ClientTLS(""), cl.ServerTLS()…)   // the catalog's own configuration
//	err = cl.Attach(ctx, cat)               // opens the tables, writes the own record
//	l, err := net.Listen("tcp", ":4281")
//	srv := cl.Server(handler)               // /v1/…, /v2/… and /peer/v1/… for other nodes
//	g.Go(func() error { return srv.Run(ctx, l) })
//	g.Go(func() error { return cl.Run(ctx) }) // renewal, members, nodes.json; ErrRemoved
//	for n := range cl.Changes(ctx) { … }    // mesh peers, NATS routes, fleet
//	api, err := httpapi.New(httpapi.Config{…, Cluster: cl})
//	// in handler: name, ok := cluster.PeerFrom(r.Context())
//	// to call:    client, base, err := cl.HTTPClient("fra2")
//
// The next thing that a node says of itself goes into [Node]; the next call
// between nodes into the handler given to [Cluster.Server].
package cluster
