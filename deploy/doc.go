// Package deploy turns a release into running machines, one strategy step at a
// time, each step gated by health, and undoes it when a step fails. It also
// scales, rolls back and destroys apps, because these are the same work.
//
// It does not start processes or run checks (machine), route (router), pull or
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
// So Run takes up a release that a kill -9 interrupted by planning again, and
// finishes it or undoes it. Whether the client still listens does not matter.
//
// # Why this is not a Temporal workflow
//
// A deploy on one node is a loop over the state of that node's own machines. A
// workflow engine would add a second service and a second copy of that state,
// which the machines' records already keep durably. When a release spans
// regions, the batches of plan.go become a workflow's activities: [Deployer] is
// the seam, its callers see only requests, progress and releases.
//
// To add a strategy, give it its batch size and order in plan.go; to add a step,
// an Action there and its execution in execute.go.
package deploy
