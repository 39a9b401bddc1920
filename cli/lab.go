package cli

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/perigee-run/perigee/internal/exit"
	"github.com/perigee-run/perigee/lab/control"
	"github.com/perigee-run/perigee/lab/fabric"
	"github.com/spf13/cobra"
)

// defaultLab is where a lab keeps its files if nothing else is said.
const defaultLab = "/var/lib/perigee-lab"

type labFlags struct {
	dir        string
	cities     []string
	nodes      int
	visitors   bool
	keep       bool
	foreground bool
	timeout    time.Duration
	more       []string // for perigeed
}

func labCmd(e *env) *cobra.Command {
	var dir string
	c := parent("lab", "A small internet on this machine, with cities, distances and faults", nil,
		labUpCmd(e, &dir), labDownCmd(e, &dir), labStatusCmd(e, &dir), labExecCmd(e, &dir), labVisitCmd(e, &dir),
		labCutCmd(e, &dir), labHealCmd(e, &dir), labLossCmd(e, &dir), labDelayCmd(e, &dir), labBGPCmd(e, &dir), labDelegateCmd(e, &dir))
	c.Long = `Make a small internet on this Linux machine: each host is a network namespace in
a city, and a switch carries their packets, as late as light would over that
distance. Distances can be changed, packets lost, cities cut off.

Anycast prefixes are announced by BGP to the first address of a city's network,
where the city's resolver is too; perigee lab status shows it.`
	c.PersistentFlags().StringVar(&dir, "dir", defaultLab, "directory of the lab's files")
	return c
}

func labUpCmd(e *env, dir *string) *cobra.Command {
	var f labFlags
	c := &cobra.Command{
		Use: "up [flags] [-- PERIGEED FLAGS]", Short: "Start a lab",
		Long: `Start a lab in the background, with a visitor in every city and, with --nodes, as
many nodes in every city, which form one cloud. What a lab that was killed
left in the directory goes.

What stands behind -- goes to every perigeed; in it {router4} and {router6} stand
for the city's BGP router, {addr4} and {addr6} for the node's own addresses and
{places} for a file that says which addresses are in which city.`,
		Example: `  sudo perigee lab up --cities iad,fra,syd,nrt,gru
  sudo perigee lab up --cities iad,fra --nodes 1
  sudo perigee lab up --nodes 1 -- --anycast 192.0.2.1/32 --bgp-asn 65010 --bgp-neighbor {router4},64500
  sudo perigee lab up --foreground                 # Ctrl-C ends it`,
		RunE: func(c *cobra.Command, args []string) error {
			if c.ArgsLenAtDash() != 0 && len(args) > 0 {
				return noArgs(c, args)
			}
			f.dir, f.more = *dir, args
			return e.labUp(c.Context(), f)
		},
	}
	fl := c.Flags()
	fl.StringSliceVar(&f.cities, "cities", []string{"iad", "fra", "syd"}, "codes of the cities")
	fl.IntVar(&f.nodes, "nodes", 0, "nodes in every city")
	fl.BoolVar(&f.visitors, "visitors", true, "a visitor in every city")
	fl.BoolVar(&f.keep, "keep", false, "keep the nodes' data when the lab ends, and use what is there")
	fl.BoolVar(&f.foreground, "foreground", false, "stay in the foreground; Ctrl-C ends the lab")
	fl.DurationVar(&f.timeout, "timeout", 2*time.Minute, "how long to wait for the lab and its nodes")
	return c
}

func labDownCmd(e *env, dir *string) *cobra.Command {
	var keep bool
	c := &cobra.Command{
		Use: "down", Short: "End the lab, with all that runs in it", Args: noArgs, Example: "  sudo perigee lab down",
		RunE: func(c *cobra.Command, _ []string) error { return e.labDown(c.Context(), *dir, keep) },
	}
	c.Flags().BoolVar(&keep, "keep", false, "keep the nodes' data of a lab that was killed")
	return c
}

func labStatusCmd(e *env, dir *string) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show the lab's cities, hosts, distances and faults", Args: noArgs, Example: "  perigee lab status --json",
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := control.NewClient(*dir).Status(c.Context())
			if err != nil {
				return labFault(err)
			}
			if e.json {
				return e.printJSON(s)
			}
			return e.labStatus(s)
		},
	}
}

func (e *env) labStatus(s control.Status) error {
	rows := [][]string{}
	for i, c := range s.Cities {
		row := []string{c.Code, c.Name, c.Router4.String()}
		for j := range s.Cities {
			cell := "·"
			if i != j {
				cell = strconv.FormatFloat(float64(s.RTT[i][j]), 'f', 1, 64)
			}
			row = append(row, cell)
		}
		rows = append(rows, row)
	}
	header := []string{"CITY", "PLACE", "BGP AND DNS"}
	for _, c := range s.Cities {
		header = append(header, "MS "+strings.ToUpper(c.Code))
	}
	if err := e.table(header, rows); err != nil {
		return err
	}
	if err := e.labHosts(s); err != nil {
		return err
	}
	for _, f := range s.Faults {
		fmt.Fprintln(e.Out, e.paint(yellow, f))
	}
	st := s.Stats
	_, err := fmt.Fprintf(e.Out, "\nsince %s: %d packets carried, %d lost, %d cut, %d dropped, %d to nowhere\n", ago(s.Since), st.Carried, st.Lost, st.Cut, st.Full, st.Nowhere)
	return err
}

func (e *env) labHosts(s control.Status) error {
	if len(s.Hosts) == 0 {
		return nil
	}
	fmt.Fprintln(e.Out)
	rows := [][]string{}
	for _, h := range s.Hosts {
		row := []string{h.Name, h.City, h.Addr4.String(), h.Addr6.String(), ""}
		if n := h.Node; n != nil {
			row[4] = "perigeed, PERIGEE_ADDR=unix://" + n.Socket
			if !n.Running {
				row[4] = "perigeed has ended, log " + n.Log
			}
		}
		rows = append(rows, row)
	}
	return e.table([]string{"HOST", "CITY", "IPV4", "IPV6", "RUNS"}, rows)
}

func labExecCmd(e *env, dir *string) *cobra.Command {
	return &cobra.Command{
		Use: "exec CITY|HOST -- COMMAND [ARG ...]", Short: "Run a command on a host of the lab",
		Long:    "Run a command on a host of the lab. A city stands for its visitor, or else its first host. The exit code is the command's.",
		Example: "  sudo perigee lab exec syd -- ping -c 3 100.64.0.1\n  sudo perigee lab exec fra-1 -- bash",
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) < 2 {
				return hint(usagef("%s needs a host and a command", c.CommandPath()), "usage: %s", c.UseLine())
			}
			return e.labExec(c.Context(), *dir, args[0], args[1:])
		},
	}
}

// labHost finds the host that a name stands for.
func labHost(s control.Status, name string) (control.Host, error) {
	var found *control.Host
	for i, h := range s.Hosts {
		switch {
		case h.Name == name, h.Name == "visitor-"+name:
			return h, nil
		case h.City == name && found == nil:
			found = &s.Hosts[i]
		}
	}
	if found == nil {
		return control.Host{}, coded{hint(fmt.Errorf("cannot find city or host %q in the lab", name), "perigee lab status lists them"), exit.NotFound}
	}
	return *found, nil
}

func labVisitCmd(e *env, dir *string) *cobra.Command {
	var req control.VisitRequest
	var ca string
	var times int
	c := &cobra.Command{
		Use: "visit CITY|HOST URL", Short: "Make a request from a city and show how long each part took", Args: exactArgs("CITY|HOST", "URL"),
		Example: "  perigee lab visit syd https://shop.example.com/\n  perigee lab visit iad http://192.0.2.10/ --times 5",
		RunE: func(c *cobra.Command, args []string) error {
			req.From, req.URL = args[0], args[1]
			if ca != "" {
				pem, err := os.ReadFile(ca)
				if err != nil {
					return usagef("cannot read --ca: %w", err)
				}
				req.CA = string(pem)
			}
			return e.labVisit(c.Context(), *dir, req, times)
		},
	}
	c.Flags().StringVar(&req.ConnectTo, "connect-to", "", "address to connect to, whatever the URL says")
	c.Flags().StringVar(&ca, "ca", "", "PEM file of the authority that signed the server's certificate")
	c.Flags().BoolVarP(&req.Insecure, "insecure", "k", false, "check no certificate")
	c.Flags().IntVarP(&times, "times", "n", 1, "how often")
	return c
}

func (e *env) labVisit(ctx context.Context, dir string, req control.VisitRequest, times int) error {
	client := control.NewClient(dir)
	visits := []control.Visit{}
	rows := [][]string{}
	for range times {
		v, err := client.Visit(ctx, req)
		if err != nil {
			return labFault(err)
		}
		visits = append(visits, v)
		rows = append(rows, []string{v.From, v.Remote, strconv.Itoa(v.Status), ms(v.Lookup), ms(v.Connect), ms(v.TLS), ms(v.FirstByte), ms(v.Total), strconv.FormatInt(v.Bytes, 10)})
	}
	if e.json {
		return e.printJSON(visits)
	}
	return e.table([]string{"FROM", "TO", "STATUS", "NAME MS", "CONNECTED", "TLS", "FIRST BYTE", "ALL", "BYTES"}, rows)
}

func ms(d time.Duration) string {
	if d == 0 {
		return "·"
	}
	return strconv.FormatFloat(float64(d)/float64(time.Millisecond), 'f', 1, 64)
}

func labCutCmd(e *env, dir *string) *cobra.Command {
	var oneWay bool
	c := &cobra.Command{
		Use: "cut A [B]", Short: "Let nothing pass between two cities or hosts, or between one and the world", Args: maxArgs(2),
		Example: "  perigee lab cut fra syd\n  perigee lab cut fra             # from everywhere else\n  perigee lab cut fra iad --one-way",
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return hint(usagef("%s needs a city or a host", c.CommandPath()), "usage: %s", c.UseLine())
			}
			ch := control.Change{Op: control.OpCut, A: args[0], B: "world"}
			if len(args) == 2 {
				ch.B = args[1]
			}
			if oneWay {
				ch.Op = control.OpCutOneWay
				return e.labChange(c.Context(), *dir, ch, "nothing passes from %s to %s", ch.A, ch.B)
			}
			return e.labChange(c.Context(), *dir, ch, "nothing passes between %s and %s", ch.A, ch.B)
		},
	}
	c.Flags().BoolVar(&oneWay, "one-way", false, "only from A to B")
	return c
}

func labHealCmd(e *env, dir *string) *cobra.Command {
	return &cobra.Command{
		Use: "heal [A B]", Short: "End all cuts, losses and changed distances, or one cut", Args: maxArgs(2),
		Example: "  perigee lab heal\n  perigee lab heal fra syd",
		RunE: func(c *cobra.Command, args []string) error {
			switch len(args) {
			case 0:
				return e.labChange(c.Context(), *dir, control.Change{Op: control.OpHeal}, "the network is whole")
			case 1:
				args = append(args, "world")
			}
			return e.labChange(c.Context(), *dir, control.Change{Op: control.OpMend, A: args[0], B: args[1]}, "%s and %s are joined", args[0], args[1])
		},
	}
}

func labLossCmd(e *env, dir *string) *cobra.Command {
	return &cobra.Command{
		Use: "loss A B SHARE", Short: "Lose a share of the packets between two cities or hosts", Args: exactArgs("A", "B", "SHARE"),
		Example: "  perigee lab loss fra syd 5%\n  perigee lab loss fra world 0.5%",
		RunE: func(c *cobra.Command, args []string) error {
			percent, err := strconv.ParseFloat(strings.TrimSuffix(args[2], "%"), 64)
			if err != nil || !strings.HasSuffix(args[2], "%") {
				return usagef("cannot use %q as a share: want a percentage, such as 5%%", args[2])
			}
			if !(percent >= 0 && percent <= 100) {
				return usagef("cannot lose %s of the packets: want 0%% to 100%%", args[2])
			}
			return e.labChange(c.Context(), *dir, control.Change{Op: control.OpLoss, A: args[0], B: args[1], Share: percent / 100}, "%s of the packets between %s and %s are lost", args[2], args[0], args[1])
		},
	}
}

func labDelayCmd(e *env, dir *string) *cobra.Command {
	var jitter bool
	c := &cobra.Command{
		Use: "delay A B TIME", Short: "Set the round trip between two cities or hosts", Args: exactArgs("A", "B", "TIME"),
		Example: "  perigee lab delay fra syd 400ms\n  perigee lab delay fra syd 20ms --jitter",
		RunE: func(c *cobra.Command, args []string) error {
			d, err := time.ParseDuration(args[2])
			if err != nil {
				return usagef("cannot use %q as a time: want one such as 80ms", args[2])
			}
			if jitter {
				return e.labChange(c.Context(), *dir, control.Change{Op: control.OpJitter, A: args[0], B: args[1], Delay: d}, "packets between %s and %s take up to %s longer", args[0], args[1], d)
			}
			return e.labChange(c.Context(), *dir, control.Change{Op: control.OpRTT, A: args[0], B: args[1], Delay: d}, "the round trip between %s and %s is %s", args[0], args[1], d)
		},
	}
	c.Flags().BoolVar(&jitter, "jitter", false, "add up to TIME to each packet by chance, instead")
	return c
}

func labDelegateCmd(e *env, dir *string) *cobra.Command {
	return &cobra.Command{
		Use: "delegate ZONE [SERVER ...]", Short: "Name the servers that a DNS zone is asked of, or none any more", Args: cobra.MinimumNArgs(1),
		Example: "  perigee lab delegate apps.example.com 100.64.0.11 100.65.0.11\n  perigee lab delegate apps.example.com",
		RunE: func(c *cobra.Command, args []string) error {
			ch := control.Change{Op: control.OpDelegate, A: args[0]}
			for _, s := range args[1:] {
				at, err := nameServer(s)
				if err != nil {
					return err
				}
				ch.Servers = append(ch.Servers, at)
			}
			if len(ch.Servers) == 0 {
				return e.labChange(c.Context(), *dir, ch, "nobody is asked for %s", args[0])
			}
			return e.labChange(c.Context(), *dir, ch, "visitors' resolvers ask %s for %s, the nearest first", strings.Join(args[1:], ", "), args[0])
		},
	}
}

// nameServer is an address with the port of DNS, unless it says another.
func nameServer(s string) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.AddrPortFrom(a, 53), nil
	}
	at, err := netip.ParseAddrPort(s)
	if err != nil {
		return at, usagef("cannot use %q as a name server: want an address, such as 100.64.0.11", s)
	}
	return at, nil
}

func (e *env) labChange(ctx context.Context, dir string, ch control.Change, done string, a ...any) error {
	err := control.NewClient(dir).Change(ctx, ch)
	if errors.As(err, new(control.Refused)) { // there is nothing but the words to be wrong
		return usageError{err}
	}
	if err != nil {
		return labFault(err)
	}
	return e.did(done, a...)
}

func labBGPCmd(e *env, dir *string) *cobra.Command {
	return &cobra.Command{
		Use: "bgp", Short: "Show what each city knows of announced prefixes", Args: noArgs, Example: "  perigee lab bgp",
		RunE: func(c *cobra.Command, _ []string) error {
			routes, err := control.NewClient(*dir).Routes(c.Context())
			if err != nil {
				return labFault(err)
			}
			if e.json {
				return e.printJSON(routes)
			}
			rows := [][]string{}
			for _, r := range routes {
				rows = append(rows, []string{r.Prefix.String(), r.City, first(r.Host, "unreachable"), strings.Join(r.Others, " ")})
			}
			return e.table([]string{"PREFIX", "IN CITY", "GOES TO", "ALSO ANNOUNCED BY"}, rows)
		},
	}
}

// labFault adds what to do where no lab runs.
func labFault(err error) error {
	if errors.Is(err, control.ErrNoLab) {
		return hint(unreachable{err}, "start one: sudo perigee lab up --cities iad,fra,syd; name another directory with --dir")
	}
	if errors.As(err, new(fabric.NotFound)) {
		return coded{err, exit.NotFound}
	}
	return err
}

// labLog stands beside the lab's directory, which goes with the lab.
func labLog(dir string) string { return filepath.Clean(dir) + ".log" }
