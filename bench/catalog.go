package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/perigee-run/perigee/catalog"
	"github.com/perigee-run/perigee/lab"
	"github.com/perigee-run/perigee/lab/space"
)

const (
	catalogMachines = 10_000
	catalogChanges  = 100
	catalogMargin   = 50 * time.Millisecond // beyond a round trip
)

var catalogCities = []string{"iad", "fra", "syd"}

// catalogFigure measures the replicated state in three cities of the lab: how
// soon a change is known, how soon a new node knows all, what it weighs, and how
// soon all agree after a city was cut off.
func (b *bench) catalogFigure(ctx context.Context) (err error) {
	r, err := newCatalogRig(filepath.Join(b.work, "catalog"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	if err := r.grow(ctx); err != nil {
		return err
	}
	if err := r.changes(ctx); err != nil {
		return err
	}
	if err := r.weigh(ctx); err != nil {
		return err
	}
	return r.cutOff(ctx, b.rounds)
}

// catalogRig is a lab with a process in each city that holds the catalog.
type catalogRig struct {
	lab     *lab.Lab
	dir     string
	ca      *x509.Certificate
	key     *ecdsa.PrivateKey
	nodes   map[string]*catalogPeer
	members []catalog.Member
}

type catalogPeer struct {
	name string
	host *lab.Host
	cmd  *space.Cmd
	in   io.WriteCloser
	out  *bufio.Scanner
	log  *os.File
}

func newCatalogRig(dir string) (*catalogRig, error) {
	l, err := lab.New(context.Background(), lab.Config{Cities: catalogCities, Dir: filepath.Join(dir, "lab"), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	r := &catalogRig{lab: l, dir: dir, nodes: map[string]*catalogPeer{}}
	r.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err == nil {
		r.ca, err = signed("cloud", nil, &r.key.PublicKey, r.key)
	}
	return r, err
}

func (r *catalogRig) close() error {
	for _, p := range r.nodes {
		p.end()
	}
	return r.lab.Close()
}

// signed is a certificate of the rig's authority; parent nil makes that.
func signed(name string, parent *x509.Certificate, key *ecdsa.PublicKey, by *ecdsa.PrivateKey) (*x509.Certificate, error) {
	c := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature}
	if parent == nil {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key, by)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func asPEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func memberAt(name, addr string) catalog.Member {
	return catalog.Member{Name: name, ClientAddr: net.JoinHostPort(addr, "4282"), RouteAddr: net.JoinHostPort(addr, "4283")}
}

// start starts a node in a city; it begins a cloud if there is none.
func (r *catalogRig) start(ctx context.Context, name, city string) (*catalogPeer, error) {
	host, err := r.lab.AddHost(name+"-1", city)
	if err != nil {
		return nil, err
	}
	p := &catalogPeer{name: name, host: host}
	cfg, err := r.config(name, host.Addr4.String())
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if p.log, err = os.Create(filepath.Join(r.dir, name+".log")); err != nil {
		return nil, err
	}
	p.cmd = host.Command(ctx, self, "-catalog-node")
	p.cmd.Stderr = p.log
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewScanner(out)
	p.out.Buffer(nil, 16<<20)
	r.nodes[name] = p
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	return p, json.NewEncoder(p.in).Encode(cfg)
}

func (r *catalogRig) config(name, addr string) (catalogConfig, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return catalogConfig{}, err
	}
	cert, err := signed(name, r.ca, &key.PublicKey, r.key)
	if err != nil {
		return catalogConfig{}, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	return catalogConfig{Dir: filepath.Join(r.dir, name), Name: name, Addr: addr, Members: r.members,
		CA: asPEM("CERTIFICATE", r.ca.Raw), Cert: asPEM("CERTIFICATE", cert.Raw), Key: asPEM("EC PRIVATE KEY", der)}, err
}

// end lets the node close its catalog, for a moment.
func (p *catalogPeer) end() {
	p.in.Close()
	done := time.AfterFunc(5*time.Second, func() { p.cmd.Process.Kill() })
	p.cmd.Wait()
	done.Stop()
	p.log.Close()
}

func (p *catalogPeer) ask(q question) (a answer, err error) {
	if err := json.NewEncoder(p.in).Encode(q); err != nil {
		return a, fmt.Errorf("node %q is gone: %w", p.name, err)
	}
	if !p.out.Scan() {
		return a, fmt.Errorf("node %q is gone: %w; see %s", p.name, errors.Join(p.out.Err(), io.ErrUnexpectedEOF), p.log.Name())
	}
	err = json.Unmarshal(p.out.Bytes(), &a)
	if err == nil && a.Error != "" {
		err = fmt.Errorf("node %q: %s", p.name, a.Error)
	}
	return a, err
}

// until asks again and again until the answer is good.
func (p *catalogPeer) until(q question, good func(answer) bool) error {
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if a, err := p.ask(q); err == nil && good(a) {
			return nil
		}
	}
	return fmt.Errorf("node %q does not come to %q", p.name, q.Do)
}

func isOK(a answer) bool { return a.OK }

// grow makes three members of one, as joins do, and prints how soon the words of
// a new member reach the others.
func (r *catalogRig) grow(ctx context.Context) error {
	var rows [][]string
	for _, city := range catalogCities {
		began := time.Now()
		p, err := r.start(ctx, city, city)
		if err != nil {
			return err
		}
		if len(r.members) == 0 {
			r.members = append(r.members, memberAt(city, p.host.Addr4.String()))
			continue
		}
		if _, err := p.ask(question{Do: "report"}); err != nil {
			return err
		}
		opened := time.Since(began)
		if len(r.nodes) == len(catalogCities) {
			if err := r.allMembers(); err != nil {
				return err
			}
		}
		row := []string{city, fmt.Sprint(len(r.nodes) == len(catalogCities)), inSeconds(opened)}
		for _, other := range catalogCities {
			if n := r.nodes[other]; n != nil && other != city {
				if err := n.until(question{Do: "hears", Key: city}, isOK); err != nil {
					return err
				}
				if err := p.until(question{Do: "hears", Key: other}, isOK); err != nil {
					return err
				}
			}
		}
		rows = append(rows, append(row, inSeconds(time.Since(began))))
	}
	began := time.Now()
	all := func(a answer) bool { return a.Status.Replicas == 3 && a.Status.Current && a.Status.To != "" }
	for _, p := range r.nodes {
		if err := p.until(question{Do: "report"}, all); err != nil {
			return err
		}
	}
	printTable("A node joins, s", []string{"city", "now three members", "catalog is open", "its words are everywhere, and others' there"}, rows)
	fmt.Printf("then until everything is kept three times: %s s\n", inSeconds(time.Since(began)))
	return nil
}

func (r *catalogRig) allMembers() error {
	r.members = nil
	for _, city := range catalogCities {
		r.members = append(r.members, memberAt(city, r.nodes[city].host.Addr4.String()))
	}
	for _, p := range r.nodes {
		if _, err := p.ask(question{Do: "members", Members: r.members}); err != nil {
			return err
		}
	}
	return nil
}

func inSeconds(d time.Duration) string { return fmt.Sprintf("%.2f", d.Seconds()) }

// changes prints how long a change that one node makes takes to the others.
func (r *catalogRig) changes(ctx context.Context) error {
	for _, p := range r.nodes {
		if _, err := p.ask(question{Do: "report"}); err != nil {
			return err
		}
	}
	for range catalogChanges {
		for _, city := range catalogCities {
			if _, err := r.nodes[city].ask(question{Do: "tick", Key: "tick"}); err != nil {
				return err
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	time.Sleep(time.Second)
	var rows [][]string
	for _, to := range catalogCities {
		a, err := r.nodes[to].ask(question{Do: "report"})
		if err != nil {
			return err
		}
		for _, from := range catalogCities {
			if from != to {
				rtt := r.lab.RTT(from, to)
				rows = append(rows, []string{from + " to " + to, fmt.Sprintf("%.1f", ms(rtt)), samples(a.Heard[from+" tick"]).String(),
					fmt.Sprintf("%.1f", ms(rtt+catalogMargin))})
			}
		}
	}
	printTable(fmt.Sprintf("A change that one node makes, until another node knows it, ms, %d changes", catalogChanges),
		[]string{"from", "round trip", "known after", "goal"}, rows)
	return nil
}

// weigh fills the catalog and lets a new node join.
func (r *catalogRig) weigh(ctx context.Context) error {
	before := map[string][2]float64{}
	for _, city := range catalogCities {
		heap, rss, err := r.nodes[city].memory()
		if err != nil {
			return err
		}
		before[city] = [2]float64{heap, rss}
	}
	began := time.Now()
	if _, err := r.nodes["iad"].ask(question{Do: "fill", N: catalogMachines}); err != nil {
		return err
	}
	for _, city := range catalogCities {
		if _, err := r.nodes[city].ask(question{Do: "await", N: catalogMachines}); err != nil {
			return err
		}
	}
	heard := time.Since(began)
	time.Sleep(15 * time.Second) // until all of it is stored, and copies are on disk
	var rows [][]string
	for _, city := range catalogCities {
		heap, rss, err := r.nodes[city].memory()
		if err != nil {
			return err
		}
		was := before[city]
		rows = append(rows, []string{city, fmt.Sprintf("%.0f, %.0f", was[0], heap), fmt.Sprintf("%.0f, %.0f", was[1], rss),
			fmt.Sprintf("%.0f", (heap-was[0])*(1<<20)/catalogMachines)})
	}
	printTable(fmt.Sprintf("%d machines of one node in the catalog of three members", catalogMachines),
		[]string{"member", "heap before and now, MiB", "RSS before and now, MiB", "heap for each machine, B"}, rows)
	fmt.Printf("said at once, they were known everywhere after %s s\n", inSeconds(heard))
	return r.latecomers(ctx)
}

// latecomers are new nodes, one in each city, none of them a member.
func (r *catalogRig) latecomers(ctx context.Context) error {
	var rows [][]string
	for _, city := range catalogCities {
		began := time.Now()
		p, err := r.start(ctx, city+"-late", city)
		if err != nil {
			return err
		}
		if _, err := p.ask(question{Do: "await", N: catalogMachines}); err != nil {
			return err
		}
		took := time.Since(began)
		heap, rss, err := p.memory()
		if err != nil {
			return err
		}
		rows = append(rows, []string{city, inSeconds(took), fmt.Sprintf("%.0f", heap), fmt.Sprintf("%.0f", rss)})
		p.end()
		p.host.Remove()
		delete(r.nodes, city+"-late")
	}
	printTable(fmt.Sprintf("A node joins, which is no member, until it has all %d machines", catalogMachines),
		[]string{"city", "s", "heap, MiB", "RSS, MiB"}, rows)
	return nil
}

func (p *catalogPeer) memory() (heap, rss float64, err error) {
	a, err := p.ask(question{Do: "report"})
	rss, _ = memoryMiB(p.cmd.Process.Pid)
	return a.HeapMiB, rss, err
}

// cutOff cuts each city off in turn and prints how soon all agree afterwards.
func (r *catalogRig) cutOff(ctx context.Context, rounds int) error {
	var rows [][]string
	for _, city := range catalogCities {
		var refused, agreed, heard samples
		for i := range max(1, rounds/3) {
			one, two, three, err := r.cutOnce(city, fmt.Sprintf("%s%d", city, i))
			if err != nil {
				return err
			}
			refused, agreed, heard = append(refused, one), append(agreed, two), append(heard, three)
		}
		rows = append(rows, []string{city, refused.String(), heard.String(), agreed.String()})
	}
	printTable("A member cut off for 10 s, ms", []string{"city", "its write is refused after", "healed: all hear all again after", "all have all writes after"}, rows)
	return nil
}

func (r *catalogRig) cutOnce(city, key string) (refused, agreed, heard time.Duration, err error) {
	if err := r.lab.Isolate(city); err != nil {
		return 0, 0, 0, err
	}
	began := time.Now()
	_, err = r.nodes[city].ask(question{Do: "put", Key: key})
	refused = time.Since(began)
	if err == nil {
		return 0, 0, 0, fmt.Errorf("%s wrote alone", city)
	}
	for _, other := range catalogCities {
		if other != city {
			if err := r.nodes[other].until(question{Do: "put", Key: key + other}, func(answer) bool { return true }); err != nil {
				return 0, 0, 0, err
			}
		}
	}
	time.Sleep(10*time.Second - time.Since(began))
	r.lab.Heal()
	began = time.Now()
	if heard, err = r.hearEachOther(began); err != nil {
		return 0, 0, 0, err
	}
	for _, other := range catalogCities {
		if other != city {
			if err := r.nodes[city].until(question{Do: "has", Key: key + other}, isOK); err != nil {
				return 0, 0, 0, err
			}
		}
	}
	return refused, time.Since(began), heard, nil
}

// hearEachOther has every node say something new until every other has heard it.
func (r *catalogRig) hearEachOther(began time.Time) (time.Duration, error) {
	for _, from := range catalogCities {
		if _, err := r.nodes[from].ask(question{Do: "report"}); err != nil {
			return 0, err
		}
	}
	missing := map[string]bool{}
	for _, from := range catalogCities {
		for _, to := range catalogCities {
			if from != to {
				missing[from+" "+to] = true
			}
		}
	}
	key := fmt.Sprintf("heal%d", began.UnixNano())
	for len(missing) > 0 {
		if time.Since(began) > time.Minute {
			return 0, fmt.Errorf("after a minute some do not hear each other: %v", missing)
		}
		for _, from := range catalogCities {
			if _, err := r.nodes[from].ask(question{Do: "tick", Key: key}); err != nil {
				return 0, err
			}
		}
		time.Sleep(20 * time.Millisecond)
		for _, to := range catalogCities {
			a, err := r.nodes[to].ask(question{Do: "report"})
			if err != nil {
				return 0, err
			}
			for _, from := range catalogCities {
				if len(a.Heard[from+" "+key]) > 0 {
					delete(missing, from+" "+to)
				}
			}
		}
	}
	return time.Since(began), nil
}
