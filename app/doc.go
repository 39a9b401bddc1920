// Package app keeps what an app is: its name, the custom names it answers to,
// its secrets and its releases, as records in the catalog.
//
// It decides nothing about machines: what is to become of a release is deploy's
// matter, and the machines themselves are machine's. It does not route either;
// the node reads hosts here and tells the router.
//
// # Records
//
//	apps.<name>                the app
//	hosts.<host>               which app answers to a custom name; "*" is written "_"
//	secrets.<name>             the app's secrets, each value sealed
//	oldsecrets.<name>.<version> a former set, for machines made with it; 20 digits
//	releases.<name>.<version>  one release; the version has eight digits
//
// That a name, a host or a version exists only once is decided by the catalog's
// Create, so it holds for several nodes as well.
//
// # Secrets
//
// Values are sealed with AES-256-GCM under a key that is made at the first
// start and kept in a file (mode 0600) beside the catalog, not in it: a copy of
// the catalog alone gives nothing away. The app's and the secret's name are
// part of the seal, so a value cannot be moved to another place. What is shown
// is a keyed digest, which tells whether a value changed and cannot be guessed
// back. Values leave this package only through [Store.Secrets] and
// [Store.SecretsAt].
//
// The place to add the next thing that belongs to an app is a table of its own
// beside these, opened in New and emptied in Delete.
package app
