// Package house holds the house rules as tests: which room may import which,
// that every package says what it is for, and that every exported thing has a
// doc comment. The reasons stand beside the rules. It has no code of its own.
package house
