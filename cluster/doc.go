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
//	err = cl.CheckIn(ctx)                // cluster.ErrRemoved: say so and end
//	cat, err := catalog.Open(ctx, catalog.Config{Dir: data, Node: cl.Self().Name,
//		TLS: cl.ServerTLS(), Allow: cl.Allow, …}) // members are cl.Nodes() with Member
//	err = cl.Attach(ctx, cat)            // opens the tables, writes the own record
//	l, err := net.Listen("tcp", ":4281")
//	srv := cl.Server(handler)            // for other nodes: /v1/…, /v2/…, /peer/v1/…
//	g.Go(func() error { return srv.Run(ctx, l) })
//	g.Go(func() error { return cl.Run(ctx) }) // renews, chooses members; ErrRemoved
//	for n := range cl.Changes(ctx) { … } // mesh peers, the catalog's members
//	server, err := httpapi.New(httpapi.Config{…, Cluster: cl})
//	name, ok := cluster.PeerFrom(r.Context())   // in handler: who calls
//	client, base, err := cl.HTTPClient("fra2")  // to call
//
// The next thing that a node says of itself goes into [Node]; the next call
// between nodes into the handler given to [Cluster.Server].
package cluster
