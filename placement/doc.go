// Package placement decides when idle machines go to sleep and how deep: an
// app's machine that has had no request for a while is paused (frozen, memory
// kept, awake in milliseconds), and one whose configuration says "stop" is
// stopped after a longer while. How a paused machine sinks to disk when memory
// is wanted is the machine room's own affair, and waking is the router's.
//
// What to do is a pure function, [Decide], tested as one; [Idle] asks it
// again and again and acts. A new rule of when to sleep belongs in Decide.
//
// It does not choose nodes: on one node there is no choice.
package placement
