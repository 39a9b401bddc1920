// Package dns is the resolver that machines use. It answers names under
// .internal from a read-only view of the catalog, each machine seeing its own
// org only, and hands every other name to the host's upstream resolvers, with a
// small cache.
//
// Names under .internal and .flycast never leave the node. Who asks is decided
// by the source address, which package mesh's firewall makes trustworthy.
//
// It is not the public zone of the apps' own domains, and it picks no route:
// it names the machines that are started.
//
// Under .flycast there is <app> alone: the address at which the node's router takes
// calls for it (AAAA), also while all of its machines sleep.
//
// The names under .internal (<app> is an app of the asker's org):
//
//	AAAA  <app>, global.<app>              every started machine
//	      <region>.<app>                   those in a region
//	      <group>.process.<app>            those of a process group
//	      <machine>.vm.<app>               one machine
//	      top<N>.nearest.of.<app>          the N nearest
//	      <value>.<key>.kv._metadata.<app> those with this metadata
//	TXT   vms.<app>, all.vms.<app>         "id region,…" of the started; of all
//	      regions.<app>                    "iad,fra"
//	      _apps, _instances                the org's apps; its started machines
//
// The next name goes in internal.go.
package dns
