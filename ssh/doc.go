// Package ssh lets people into machines by SSH: a shell, a command, files (SFTP,
// and with it scp) and forwarded ports. It is a server on the node's side: an
// image needs neither sshd nor a shell for it.
//
// # Who is let in
//
// Only who has a certificate of the org's own authority, which lasts hours, not
// years ([Authority.Issue]). No plain key and no password opens anything. A
// certificate names what it is good for – users, apps, machines – and the token
// it was asked for with; whether that token still is good is asked again at every
// session, and every half minute of one. All keys come from one secret that the
// nodes of a cloud share, so that any node can issue, and any node's machine
// knows, without a record being kept.
//
// The server has a certificate too, by which clients know a machine that they
// have never met (@cert-authority in known_hosts).
//
// # How a connection gets here
//
// One connection leads to one machine, at the node that owns it. Which machine it
// is was said before the first byte of SSH: by the path of a WebSocket
// (httpapi), or by the address that was called. So the user name is free to name
// a user of the machine.
//
// # What happens to it
//
// [Server.Serve] does the handshake (connection.go) and then answers channels: a
// session (session.go) runs one program (program.go), a forward (forward.go)
// joins one port of the same machine. Sleeping machines are woken. Agent and X11
// forwarding, and ports that a machine would open at the client's end, are not
// there on purpose: the client must not have to trust the machine.
//
// Files are served by a program of the node's that runs inside the machine
// ([sandbox.ProgramSFTP]), so that they are what the machine itself sees.
//
// To answer one more request of a session add it to session.requests.
package ssh
