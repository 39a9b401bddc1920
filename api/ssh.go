package api

import "time"

// SSHCertificateRequest asks an org's authority to sign a public key.
type SSHCertificateRequest struct {
	PublicKey  string   `json:"public_key" doc:"As OpenSSH writes it, such as \"ssh-ed25519 AAAA…\"; the private key stays where it is"`
	Principals []string `json:"principals,omitempty" doc:"Users of the machines that it may become; default root"`
	Apps       []string `json:"apps,omitempty" doc:"Only machines of these apps; default all of the org that the token reaches"`
	Machines   []string `json:"machines,omitempty" doc:"Only these machines"`
	ValidHours int      `json:"valid_hours,omitempty" doc:"1 to 72, default 1"`
}

// SSHCertificate lets whoever has the key that it was made for into machines.
type SSHCertificate struct {
	Certificate string    `json:"certificate" doc:"As OpenSSH keeps it in a file such as id_ed25519-cert.pub"`
	Serial      string    `json:"serial" doc:"Number of the certificate"`
	Principals  []string  `json:"principals"`
	Apps        []string  `json:"apps,omitempty"`
	Machines    []string  `json:"machines,omitempty"`
	ExpiresAt   time.Time `json:"expires_at"`
	// The two authorities, as lines of authorized_keys.
	UserAuthority string `json:"user_authority" doc:"Who signed it: the org's authority of people"`
	HostAuthority string `json:"host_authority" doc:"Who signs for the org's machines, for @cert-authority in known_hosts"`
}

// SSHAuthority is who signs for an org.
type SSHAuthority struct {
	UserAuthority string `json:"user_authority" doc:"Signs for people"`
	HostAuthority string `json:"host_authority" doc:"Signs for machines, for @cert-authority in known_hosts"`
}
