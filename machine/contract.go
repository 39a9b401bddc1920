package machine

import (
	"github.com/perigee-run/perigee/catalog"
	"github.com/perigee-run/perigee/image"
	"github.com/perigee-run/perigee/mesh"
	"github.com/perigee-run/perigee/sandbox"
)

// The neighbours fit as they are.
var (
	_ Sandbox  = (*sandbox.Client)(nil)
	_ Images   = (*image.Store)(nil)
	_ Networks = (*mesh.Network)(nil)
	_ Records  = (*catalog.Table[Record])(nil)
)
