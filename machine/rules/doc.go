// Package rules says which machine configurations can be on a node: what each
// field may hold, how much there may be of it, and which of Fly's features are
// refused, in words that name the field.
//
// All of it is pure: it looks at a configuration and nothing else. What needs the
// image, the app or the machine itself is the machine room's. The file's own
// check, which knows lines and columns, is appconfig.
//
// A field that a node learns to act on leaves checkSupported; a new one gets its
// rule in the check of its part, and both a row in the test.
package rules
