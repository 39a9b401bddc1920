// Package appconfig reads an app's configuration, perigee.toml, which is Fly's
// fly.toml: every key that flyctl takes, with its older forms, and one of our
// own, regions. It says what is wrong by file, line and column, and turns a
// configuration into machine configs of package api, one for each process group.
//
// It is not for what only a node can know (whether an image exists, whether a
// machine fits), and it changes nothing: reading is all it does.
//
// # Three kinds of findings
//
//   - An unknown key, a wrong type or an impossible value is an error; a
//     configuration with one is not used at all. All of them are reported, in
//     the order of the file.
//   - A key that we know and do not act on yet is a [Warning], never silence.
//     The field's tag `later` holds the words.
//   - What is possible but hardly meant (a check slower than its interval) is a
//     Warning too.
//
// # Where the next thing goes
//
// A key is a field of one of the structs in config.go, with the tag `toml`: the
// key, then options (s or ms: an integer is seconds or milliseconds; text: a
// number may be written for a string and the reverse; one: a single string may
// stand for a list). Other names for it are in the tag `alias`. Its rule goes to
// validate.go, its meaning to machines.go, and a case to testdata.
package appconfig
