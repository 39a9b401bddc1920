// Package handover lets one process take the place of another while both run, so
// that no connection is refused and none is cut: an upgrade without a failed
// request.
//
// The process that goes has a [Succession]. It keeps note of its open sockets
// (Keep), starts the program that is to follow (Start), and once it has let go of
// all that only one process can have, it lets the heir begin (HandOver) and its
// own connections end (Retire). If the heir fails, however late, the former
// process begins anew with what it still has (TakeBack).
//
// The process that comes finds a [Heritage] (Inherit): open sockets by name
// (Take, Listener), and a line to the one before it. It says that it runs and
// waits until all is free (Begin), asks for things whose end must be short (Want),
// answers for what is asked over there still (Answer), and says that it serves
// (Ready) or cannot (Fail).
//
// The line is a pair of unix sockets with words in JSON, in line.go: the two
// processes may be of different versions, so its words and the environment
// variable change only in ways that the version before understands. A new word
// begins there.
//
// The package knows processes, descriptors, words and time limits. It does not
// know what is served: what to let go of, to give and to keep is said by its
// user, in names that mean nothing here. It does not watch over processes and
// restarts none: that is the service manager's.
package handover
