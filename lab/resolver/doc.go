// Package resolver is the lab's public DNS: what visitors of one city ask. It
// knows which name servers a zone is delegated to, asks the nearest first and
// tells it the visitor's subnet, as large public resolvers do, and remembers
// answers as long as they say. It is no root of the DNS: names of no delegated
// zone do not exist.
package resolver
