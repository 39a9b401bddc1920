// Package placement decides where machines are and when they sleep.
//
// Where: [Choose] names the node for a machine, [Heal] and [Rebalance] the new
// places for machines of nodes that are dead or draining, [Return] the way home for
// those that stand in for a region that is back; all of them pure functions. [Healer] carries the moves out, in steps that are each recorded
// ([Move]), so that a kill -9 anywhere neither doubles nor loses a machine, and
// makes a node that comes back give up what was replaced meanwhile ([Judge]). No
// move waits for another: each step goes on by itself, one that fails pauses, for
// a second at first and a minute at the most.
//
// When: an app's machine that has had no request for a while is paused (frozen,
// memory kept, awake in milliseconds), and one whose configuration says "stop" is
// stopped after a longer while. How a paused machine sinks to disk when memory
// is wanted is the machine room's own affair, and waking is the router's. What to
// do is a pure function too, [Decide]; [Idle] asks it again and again and acts.
//
// A new rule of where belongs in Choose, of moves in advance, of sleep in Decide.
// It does not make machines, nor know how nodes are reached: interfaces do.
package placement
