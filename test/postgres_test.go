package test

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/internal/debian"
)

// TestPostgresOnAVolume runs Debian's PostgreSQL on a volume and kills, in turns,
// the machine and the daemon by kill -9, while a client commits one number after
// the other. Afterwards every number whose commit was acknowledged must be there.
// PERIGEE_PG_KILLS changes the number of kills; make test-volumes does 100.
func TestPostgresOnAVolume(t *testing.T) {
	s := mounted(t)
	p := &postgres{store: s, image: s.importImage("db", archive(t, "pg:test", debian.Postgres()))}
	p.begin()
	quit, done := make(chan struct{}), make(chan error, 1)
	go func() {
		err := p.commit(quit)
		if err != nil {
			p.met.Store(err.Error())
		}
		done <- err
	}()
	kills := envInt("PERIGEE_PG_KILLS", 2)
	random := rand.New(rand.NewSource(seed(t)))
	for i := range kills {
		p.progress(fmt.Sprintf("before kill %d", i))
		time.Sleep(time.Duration(random.Intn(300)) * time.Millisecond)
		if i%2 == 0 {
			p.killMachine()
		} else {
			s.Kill()
			s.Run()
		}
	}
	p.progress("after the last kill")
	close(quit)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	p.check()
	t.Logf("%d kills, %d commits acknowledged, %d connections lost", kills, p.acked.Load(), p.lost.Load())
}

// postgres is a database and its client.
type postgres struct {
	*store
	image   string
	machine string
	addr    string
	acked   atomic.Int64 // every number up to this one was acknowledged, or was found after a reconnect
	lost    atomic.Int64
	met     atomic.Value // the latest error of the client
	numbers []int        // that were acknowledged
	killed  int          // how often the machine was
}

func (p *postgres) begin() {
	p.t.Helper()
	ctx := context.Background()
	v, err := p.Client.CreateVolume(ctx, "db", api.CreateVolumeRequest{Name: "pgdata"})
	if err != nil {
		p.t.Fatal(err)
	}
	m, err := p.Client.CreateMachine(ctx, "db", api.CreateMachineRequest{Config: &api.MachineConfig{
		Image: p.image, Mounts: []api.Mount{{Volume: v.ID, Path: "/data"}}, Guest: &api.Guest{CPUs: 1, MemoryMB: 1024}, Restart: &api.Restart{Policy: "always"},
		Init: &api.Init{Exec: []string{"/bin/busybox", "sh", "-c", postgresOnVolume}},
	}})
	if err != nil {
		p.t.Fatal(err)
	}
	p.machine, p.addr = m.ID, net.JoinHostPort(m.PrivateIP, "5432")
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if c, err := p.connect(); err == nil {
			defer c.Close()
			if _, err := c.query("create table t (i bigint primary key)"); err != nil {
				p.t.Fatal(err)
			}
			return
		}
	}
	p.t.Fatal("PostgreSQL does not answer after a minute")
}

// postgresOnVolume keeps the database in a folder below the mount, and makes it
// anew if that was cut off.
const postgresOnVolume = `export PATH=/usr/lib/postgresql/15/bin:/usr/bin:/bin:$PATH
if [ ! -f /data/pg/made ]; then
  busybox rm -rf /data/pg && initdb -D /data/pg -A trust --no-locale -E UTF8 && busybox sync &&
  echo "host all all ::/0 trust" >> /data/pg/pg_hba.conf && echo "host all all 0.0.0.0/0 trust" >> /data/pg/pg_hba.conf && busybox touch /data/pg/made && busybox sync
fi
busybox rm -f /data/pg/postmaster.pid
exec postgres -D /data/pg -c listen_addresses='*' -c checkpoint_timeout=30s`

// commit writes one number after the other until quit is closed.
func (p *postgres) commit(quit chan struct{}) error {
	next := 1
	var c *pgConn
	defer func() {
		if c != nil {
			c.Close()
		}
	}()
	for {
		select {
		case <-quit:
			return nil
		default:
		}
		if c == nil {
			var err error
			if c, err = p.connect(); err != nil {
				p.met.Store(err.Error())
				time.Sleep(20 * time.Millisecond)
				continue
			}
			// The last one may have been committed without a word.
			there, err := c.query("select coalesce(max(i), 0) from t")
			if err != nil {
				p.met.Store(err.Error())
				c.Close()
				c = nil
				continue
			}
			n, err := strconv.Atoi(there)
			if err != nil {
				return fmt.Errorf("the database answers %q", there)
			}
			if n < next-1 {
				return fmt.Errorf("the database has %d, but %d was acknowledged", n, next-1)
			}
			next = n + 1
		}
		if _, err := c.query(fmt.Sprintf("insert into t values (%d)", next)); err != nil {
			p.lost.Add(1)
			c.Close()
			c = nil
			continue
		}
		p.numbers = append(p.numbers, next)
		p.acked.Store(int64(next))
		next++
	}
}

// progress waits until commits go on.
func (p *postgres) progress(when string) {
	p.t.Helper()
	from := p.acked.Load()
	for end := time.Now().Add(90 * time.Second); p.acked.Load() < from+3; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			m, _ := p.Client.GetMachine(context.Background(), "db", p.machine)
			out, _, _ := p.Perigee("logs", "-a", "db", "--lines", "40")
			p.t.Fatalf("%s: no commits for 90 s; the machine is %s: %s; the client met: %v\n%s", when, m.State, m.Standing, p.met.Load(), out)
		}
	}
}

// killMachine kills all processes of the machine's sandbox and starts it at once.
func (p *postgres) killMachine() {
	p.t.Helper()
	pids := p.processesOf(p.machine)
	if len(pids) == 0 {
		p.t.Fatal("the machine has no process")
	}
	if p.killed++; p.killed%4 == 0 {
		pids = pids[len(pids)-1:] // the file server alone: the machine ends with it
	}
	for _, pid := range pids {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if m, err := p.Client.GetMachine(context.Background(), "db", p.machine); err == nil && m.State != api.StateStarted || time.Now().After(end) {
			break
		}
	}
	if err := p.Client.StartMachine(context.Background(), "db", p.machine); err != nil {
		p.t.Fatal(err)
	}
}

// processesOf finds the machine's kernel and its file server: the supervisor writes
// down what it has started.
func (p *postgres) processesOf(machine string) (pids []int) {
	all, _ := filepath.Glob(filepath.Join(p.Data(), "sandbox", "boxes", machine+".*", "record.json"))
	for _, path := range all {
		b, _ := os.ReadFile(path)
		var rec struct {
			Pid   int `json:"pid"`
			Gofer int `json:"gofer_pid"`
		}
		if json.Unmarshal(b, &rec) == nil && rec.Pid > 1 {
			pids = append(pids, rec.Pid, rec.Gofer)
		}
	}
	return slices.DeleteFunc(pids, func(pid int) bool { return pid <= 1 })
}

// check looks for every number that was acknowledged, and for damage.
func (p *postgres) check() {
	p.t.Helper()
	var c *pgConn
	var err error
	for range 300 {
		if c, err = p.connect(); err == nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err != nil {
		p.t.Fatal(err)
	}
	defer c.Close()
	count, err := c.query("select count(*) from t")
	if err != nil {
		p.t.Fatal(err)
	}
	there, err := c.query("select string_agg(i::text, ',') from t")
	if err != nil {
		p.t.Fatal(err)
	}
	has := map[string]bool{}
	for _, n := range strings.Split(there, ",") {
		has[n] = true
	}
	for _, n := range p.numbers {
		if !has[strconv.Itoa(n)] {
			p.t.Errorf("commit %d was acknowledged and is lost", n)
		}
	}
	if count != strconv.Itoa(len(has)) {
		p.t.Errorf("count(*) is %s, the rows are %d", count, len(has))
	}
}

// pgConn speaks as much of PostgreSQL's protocol as simple questions need.
type pgConn struct {
	net.Conn
	r *bufio.Reader
}

func (p *postgres) connect() (*pgConn, error) {
	conn, err := net.DialTimeout("tcp", p.addr, time.Second)
	if err != nil {
		return nil, err
	}
	c := &pgConn{conn, bufio.NewReader(conn)}
	c.SetDeadline(time.Now().Add(10 * time.Second))
	body := binary.BigEndian.AppendUint32(nil, 196608) // version 3.0
	body = append(body, "user\x00postgres\x00database\x00postgres\x00\x00"...)
	if _, err := c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body)+4)), body...)); err != nil {
		conn.Close()
		return nil, err
	}
	if _, err := c.answer(); err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

// query returns the first column of the last row. Without an error the statement is
// committed, as far as the server says.
func (c *pgConn) query(sql string) (string, error) {
	// A machine that was killed says nothing more, so a client that has no patience
	// is back sooner than TCP, whose repeats come ever later.
	c.SetDeadline(time.Now().Add(3 * time.Second))
	msg := append(binary.BigEndian.AppendUint32([]byte{'Q'}, uint32(len(sql)+5)), sql...)
	if _, err := c.Write(append(msg, 0)); err != nil {
		return "", err
	}
	return c.answer()
}

// answer reads to the next ReadyForQuery.
func (c *pgConn) answer() (value string, err error) {
	for {
		kind, body, e := c.message()
		switch {
		case e != nil:
			return "", e
		case kind == 'E':
			err = errors.New(strings.ReplaceAll(string(body), "\x00", " "))
		case kind == 'D' && len(body) >= 6 && int32(binary.BigEndian.Uint32(body[2:])) >= 0:
			value = string(body[6 : 6+binary.BigEndian.Uint32(body[2:])])
		case kind == 'Z':
			return value, err
		}
	}
}

func (c *pgConn) message() (kind byte, body []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(c.r, head[:]); err != nil {
		return 0, nil, err
	}
	body = make([]byte, binary.BigEndian.Uint32(head[1:])-4)
	_, err = io.ReadFull(c.r, body)
	return head[0], body, err
}
