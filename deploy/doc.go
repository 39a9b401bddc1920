// Package deploy turns a release into running machines, one strategy step at a
// time, each step gated by health, and undoes it when a step fails. It also
// scales, rolls back and destroys apps, because these are the same work.
//
// The machines are those of all nodes, region by region; which node has the next
// one is placement's matter. It does not start processes or run checks (machine), route (router), pull or
// build images (image, build); it tells them what to do and in which order.
//
// # How a release goes out
//
// New machines are made beside the old ones, cordoned. When they are healthy
// they are admitted; then as many old ones are retired: cordoned, drained,
// stopped, but kept. Only when all of the release stands are the retired ones
// destroyed. So no request fails even with a single machine, and an undo starts
// the very same machines again instead of making new ones like them. A machine
// with a mount cannot stand beside its successor and is updated in place.
//
//   - rolling goes group by group, max_unavailable machines at a time
//   - canary is rolling whose first batch is one machine
//   - bluegreen makes all new machines, then switches all at once
//   - immediate is bluegreen that does not wait for health
//
// A new machine that exits, or whose check is answered wrongly after its grace
// period, fails the release at once, with the exit code and the app's last lines.
// One without checks must accept connections on its services' ports; one without
// services must stay up for [Config.Settle].
//
// # Why a crash loses nothing
//
// plan.go is a pure function from the machines that there are to the next batch
// of steps. Nothing else is remembered but the release's record: what is wanted,
// how far it got (Phase), and what there was before. Each step may be repeated.
// So Run takes up a release that a kill -9 interrupted, of this node or of one
// that is gone, by planning again, and finishes it or undoes it. Whether the
// client still listens does not matter.
//
// # Why this is not a Temporal workflow
//
// A deploy is a loop over what there is: the machines of all nodes and the
// release's record, both kept durably already. The app's lock makes it the only
// one in the cloud, and when its node is gone another takes both over (claim.go).
// A workflow engine would add a second service with a replicated copy of that
// state. [Deployer] is the seam: its callers see only requests, progress and
// releases. See docs/decisions/0008.
//
// To add a strategy, give it its batch size and order in plan.go; to add a step,
// an Action there and its execution in execute.go.
package deploy
