package volume

import (
	"crypto/rand"
	"math/big"
	"regexp"
)

var (
	idForm   = regexp.MustCompile(`^vol_[a-z0-9]{17}$`)
	nameForm = regexp.MustCompile(`^[a-z0-9_]{1,30}$`)
	// snapshotForm is no stricter than is needed: whether there is one, the store says.
	snapshotForm = regexp.MustCompile(`^vs_[A-Za-z0-9]{1,40}$`)
	halfForm     = regexp.MustCompile(`^(vol_[a-z0-9]{17}|vs_[A-Za-z0-9]{17})(\.image)?\.(new|part)$`)
)

const (
	lower = "abcdefghijklmnopqrstuvwxyz0123456789"
	mixed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
)

// newID returns an id such as vol_4xm1vzq6p2d8n0rk3, as Fly's volumes have.
func newID() string { return "vol_" + letters(lower) }

// newSnapshotID returns an id such as vs_MgLAggLZkYx89fLy0.
func newSnapshotID() string { return "vs_" + letters(mixed) }

func letters(of string) string {
	b := make([]byte, 17)
	for i := range b {
		n, _ := rand.Int(rand.Reader, big.NewInt(int64(len(of)))) // never fails
		b[i] = of[n.Int64()]
	}
	return string(b)
}
