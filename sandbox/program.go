package sandbox

// Program is a program of ours that Exec can run inside a machine whatever the
// machine's image holds. It comes from the supervisor as an open file and
// leaves no trace in the machine's file system. There are these and no others:
// who may run commands in a machine cannot have just any file of the host run.
type Program string

// ProgramSFTP serves the machine's files by SFTP (protocol 3) on standard input
// and output, with the rights of the user it runs as. Relative paths begin at
// that user's home directory, if it is there, else at Cwd. It takes no
// arguments, and ends with its standard input.
const ProgramSFTP Program = "sftp"

// ProgramDial joins standard input and output with a TCP port of the machine's
// loopback, where the host cannot reach it. Its argument is the port. It writes one
// zero byte when it is connected, or ends with a word on standard error.
const ProgramDial Program = "dial"

// Programs are all of them.
var Programs = []Program{ProgramSFTP, ProgramDial}
