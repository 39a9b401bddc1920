package api

// Metadata keys that the platform itself gives to machines.
const (
	// MetaHome is the region that a machine stands in for, where it could not be
	// placed there: the next release goes back home.
	MetaHome = "perigee_home_region"
	// MetaReplaces is the id of the machine that this one was made to replace.
	MetaReplaces = "perigee_replaces"
)

// Home is the region that the machine counts for.
func (m *Machine) Home() string {
	if m.Config != nil && m.Config.Metadata[MetaHome] != "" {
		return m.Config.Metadata[MetaHome]
	}
	return m.Region
}
