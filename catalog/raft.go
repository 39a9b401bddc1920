package catalog

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
	_ "unsafe" // for go:linkname

	"github.com/perigee-run/perigee/internal/durable"
)

// The state server chooses its leader by Raft. Two things of it are set here
// that it has no options for.
//
// A server that starts without peers waits for a second one before it takes any
// write. The first member of a cloud must do without: it gets the file in which
// the server remembers its peers before its first start, naming itself alone.
// Members that join get one that names all, and a size that no election among
// newcomers can reach, so that they follow the members there are and never make
// a cluster of their own; the members' leader tells them the true size.

// The server waits 4 to 9 seconds for a leader that went away before another
// one is chosen, and as long when a member that was cut off comes back, which
// unseats the leader there is. Writes would fail meanwhile; with a third of that
// they wait. It is still six round trips between the ends of the Earth.
//
//go:linkname minElectionTimeout github.com/nats-io/nats-server/v2/server.minElectionTimeout
var minElectionTimeout time.Duration

//go:linkname maxElectionTimeout github.com/nats-io/nats-server/v2/server.maxElectionTimeout
var maxElectionTimeout time.Duration

//go:linkname hbInterval github.com/nats-io/nats-server/v2/server.hbInterval
var hbInterval time.Duration

// A leader that hears nothing of most of the others would lead on for 10 to 20
// seconds, and answer questions with what it knows.
//
//go:linkname lostQuorumInterval github.com/nats-io/nats-server/v2/server.lostQuorumInterval
var lostQuorumInterval time.Duration

//go:linkname lostQuorumCheck github.com/nats-io/nats-server/v2/server.lostQuorumCheck
var lostQuorumCheck time.Duration

// A member that cannot be reached is called again after this pause.
//
//go:linkname routeConnectDelay github.com/nats-io/nats-server/v2/server.routeConnectDelay
var routeConnectDelay time.Duration

const (
	electionMin = 1500 * time.Millisecond
	electionMax = 3 * time.Second
	heartbeat   = 300 * time.Millisecond
	callAgain   = 250 * time.Millisecond
	giveUp      = 4 * time.Second
	giveUpCheck = time.Second
	// newcomer is a cluster size that is never reached.
	newcomer = 64
)

// pace counts the state servers of this process: how long they wait for a leader
// may only be changed while there is none.
var pace struct {
	sync.Mutex
	running int
}

// beginRaft is called before a state server starts, endRaft when it is down.
// Alone says that the server has nobody to wait for; then the answer is whether
// it will choose itself at once, and it must be started anew before it is used.
func beginRaft(alone bool) (hurried bool) {
	pace.Lock()
	defer pace.Unlock()
	if pace.running == 0 {
		hurried = alone
		minElectionTimeout, maxElectionTimeout, hbInterval, routeConnectDelay = electionMin, electionMax, heartbeat, callAgain
		lostQuorumInterval, lostQuorumCheck = giveUp, giveUpCheck
		if hurried {
			minElectionTimeout, maxElectionTimeout = 20*time.Millisecond, 40*time.Millisecond
		}
	}
	pace.running++
	return hurried
}

func endRaft() {
	pace.Lock()
	defer pace.Unlock()
	pace.running--
}

// peersFile is where the server in dir remembers its peers.
func peersFile(dir string) string {
	return filepath.Join(dir, "jetstream", "$SYS", "_js_", "_meta_", "peers.idx")
}

// peerID is how Raft calls the server of that name.
func peerID(name string) string {
	const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	sum := sha256.Sum256([]byte(name))
	id := make([]byte, 8)
	for i := range id {
		id[i] = digits[int(sum[i])%len(digits)]
	}
	return string(id)
}

// writePeers is for a server that was never started.
func writePeers(dir string, size int, names []string) error {
	path := peersFile(dir)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("cannot begin the state in %q: %w", dir, err)
	}
	b := binary.LittleEndian.AppendUint32(nil, uint32(size))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(names)))
	for _, n := range names {
		b = append(b, peerID(n)...)
	}
	return durable.WriteFile(path, 0o600, binary.LittleEndian.AppendUint16(b, 0))
}

// readPeers returns the ids of the peers that the server in dir knows; none if
// it was never started.
func readPeers(dir string) ([]string, error) {
	b, err := os.ReadFile(peersFile(dir))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the state's peers: %w", err)
	}
	if len(b) < 8 {
		return nil, fmt.Errorf("cannot read the state's peers in %q: %w: the file is too short", dir, ErrDamaged)
	}
	n, b := int(binary.LittleEndian.Uint32(b[4:])), b[8:]
	if n > len(b)/8 {
		return nil, fmt.Errorf("cannot read the state's peers in %q: %w: the file is too short", dir, ErrDamaged)
	}
	var ids []string
	for i := range n {
		ids = append(ids, string(b[8*i:8*i+8]))
	}
	return ids, nil
}

// isAlone reports whether the server called name in dir has no other peers.
func isAlone(dir, name string) (bool, error) {
	ids, err := readPeers(dir)
	return slices.Equal(ids, []string{peerID(name)}), err
}
