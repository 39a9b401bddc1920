package machine

import (
	"crypto/rand"
	"encoding/hex"
	"math/big"
	"regexp"
	"strings"

	"github.com/oklog/ulid/v2"
)

var (
	adjectives = strings.Fields(`autumn bitter black blue bold brave bright broad calm clear cold cool crimson curious
		damp dark dawn delicate divine dry eager early empty fair falling fancy floral fragrant frosty gentle green hidden
		holy icy keen late lingering little lively long lucky misty morning muddy nameless noble old patient plain polished
		proud purple quiet rapid rough shiny shy silent small snowy solitary sparkling spring still summer swift throbbing
		twilight wandering weathered white wild winter wispy withered young`)
	nouns = strings.Fields(`apogee band bird breeze brook bush butterfly cherry cloud comet crater darkness dawn dew dream
		dust feather field fire firefly flower fog forest frog frost glade glitter grass haze hill lake leaf limb meadow
		meteor moon morning mountain nebula night orbit paper pine planet pond pulsar rain resonance ring river sea shadow
		shape silence sky smoke snow snowflake sound star sun sunset surf thunder tide tree violet voice water waterfall
		wave wildflower wind wood`)
	idForm = regexp.MustCompile(`^[0-9a-f]{14}$`)
)

// newID returns 14 hexadecimal digits, as Fly's machine ids have.
func newID() string {
	var b [7]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// newVersion returns a ULID; later ones sort later.
func newVersion() string { return ulid.Make().String() }

// newName returns a name such as "quiet-river-4127".
func newName() string {
	n := pick(9000)
	return adjectives[pick(len(adjectives))] + "-" + nouns[pick(len(nouns))] + "-" + big.NewInt(int64(1000+n)).String()
}

func pick(n int) int {
	v, _ := rand.Int(rand.Reader, big.NewInt(int64(n))) // never fails
	return int(v.Int64())
}

// newLife returns the id of a sandbox of machine id. Later lives sort later.
func newLife(id string) string { return id + "." + newVersion() }

// lifeOf returns the machine that a sandbox id belongs to.
func lifeOf(sandboxID string) (machine string, ok bool) {
	id, _, found := strings.Cut(sandboxID, ".")
	return id, found && idForm.MatchString(id)
}
