package cli

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/mesh/wire"
	"github.com/spf13/cobra"
)

// defaultOrg owns what names no other.
const defaultOrg = "personal"

func wireguardCmd(e *env) *cobra.Command {
	return parent("wireguard", "Laptops in the private network", []string{"wg"}, wireguardCreateCmd(e), wireguardListCmd(e), wireguardRemoveCmd(e))
}

// orgFlag adds --org.
func orgFlag(c *cobra.Command, org *string) *cobra.Command {
	c.Flags().StringVarP(org, "org", "o", defaultOrg, "org whose private network it is")
	return c
}

// peerOptions are the flags of wireguard create.
type peerOptions struct {
	org, region, key, file string
	ttl                    time.Duration
}

func wireguardCreateCmd(e *env) *cobra.Command {
	var o peerOptions
	c := &cobra.Command{Use: "create NAME", Aliases: []string{"add"}, Short: "Let a laptop into the private network", Args: exactArgs("NAME"),
		Long: `Let a laptop into the org's private network, where it reaches every machine of the
org by its .internal name. The result is a configuration for WireGuard, with a
private key that is made here and never sent.`,
		Example: "  perigee wireguard create laptop --file perigee.conf && sudo wg-quick up ./perigee.conf\n" +
			"  perigee wireguard create ci --org acme --ttl 1h",
		RunE: func(c *cobra.Command, args []string) error { return e.createPeer(c, args[0], o) }}
	f := c.Flags()
	f.StringVarP(&o.region, "region", "r", "", "enter at a node there (default: the node that is asked)")
	f.StringVar(&o.key, "key", "", "public key of a private key that you keep (default: a new one is made)")
	f.StringVar(&o.file, "file", "", "write the configuration to a new file, readable by you alone (default: print it)")
	f.DurationVar(&o.ttl, "ttl", 0, "how long it is valid, as 12h (default: until removed)")
	return orgFlag(c, &o.org)
}

func (e *env) createPeer(c *cobra.Command, name string, o peerOptions) error {
	private, public, err := peerKeys(o.key)
	if err != nil {
		return usageError{err}
	}
	if o.ttl < 0 {
		return usagef("--ttl cannot be negative")
	}
	client, err := e.client()
	if err != nil {
		return err
	}
	out, err := e.openConfig(o.file)
	if err != nil {
		return err
	}
	peer, err := client.CreateWireGuardPeer(c.Context(), o.org, api.CreateWireGuardPeerRequest{Name: name, Region: o.region, PublicKey: public.String(), TTL: int(o.ttl.Seconds())})
	if err != nil {
		return errors.Join(e.explain(err), out.discard())
	}
	text, err := peerConfig(peer, private)
	if err != nil {
		return errors.Join(err, out.discard())
	}
	if err := out.write(text); err != nil {
		return err
	}
	if o.file != "" {
		return e.did("peer %s may enter; its configuration is in %s", name, o.file)
	}
	return nil
}

// peerKeys makes a pair, or takes the public half of one.
func peerKeys(given string) (private string, public wire.Key, err error) {
	if given != "" {
		public, err = wire.ParseKey(given)
		return "", public, err
	}
	k, err := wire.NewKey()
	return k.Text(), k.Public(), err
}

// peerConfig renders what wg-quick takes.
func peerConfig(p api.WireGuardPeer, private string) (string, error) {
	c, err := peerClient(p)
	if err != nil {
		return "", err
	}
	c.PrivateKey = private
	return wire.ClientConfig(c)
}

func peerClient(p api.WireGuardPeer) (c wire.Client, err error) {
	if p.GatewayKey == "" || p.Endpoint == "" {
		return c, hint(fmt.Errorf("node %s, where the peer enters, cannot be found now", p.Node), "perigee wireguard list shows it once the node is back")
	}
	c = wire.Client{Name: p.Name, Endpoint: p.Endpoint}
	var errs [3]error
	c.Gateway, errs[0] = wire.ParseKey(p.GatewayKey)
	c.Address, errs[1] = netip.ParseAddr(p.Address)
	c.DNS, errs[2] = netip.ParseAddr(p.DNS)
	for _, a := range p.AllowedIPs {
		prefix, err := netip.ParsePrefix(a)
		if err != nil {
			return c, fmt.Errorf("cannot read the node's answer: %w", err)
		}
		c.Allowed = append(c.Allowed, prefix)
	}
	if err := errors.Join(errs[:]...); err != nil {
		return c, fmt.Errorf("cannot read the node's answer: %w", err)
	}
	return c, nil
}

// configOut is where a configuration goes: a new file, or the output.
type configOut struct {
	e *env
	f *os.File
}

// openConfig makes the file before the peer is made, so that a private key is
// never without a place to be kept.
func (e *env) openConfig(path string) (configOut, error) {
	if path == "" {
		return configOut{e: e}, nil
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, os.ErrExist) {
		return configOut{}, hint(usagef("file %s is there already", path), "choose another name, or remove it")
	}
	if err != nil {
		return configOut{}, fmt.Errorf("cannot write the configuration: %w", err)
	}
	return configOut{e, f}, nil
}

func (o configOut) write(text string) error {
	if o.f == nil {
		_, err := fmt.Fprint(o.e.Out, text)
		return err
	}
	_, err := o.f.WriteString(text)
	if err := errors.Join(err, o.f.Close()); err != nil {
		return fmt.Errorf("cannot write the configuration: %w", err)
	}
	return nil
}

func (o configOut) discard() error {
	if o.f == nil {
		return nil
	}
	return errors.Join(o.f.Close(), os.Remove(o.f.Name()))
}

func wireguardListCmd(e *env) *cobra.Command {
	org := defaultOrg
	c := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List the laptops in the private network", Args: noArgs, Example: "  perigee wireguard list",
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := e.client()
			if err != nil {
				return err
			}
			peers, err := client.ListWireGuardPeers(c.Context(), org)
			if err != nil {
				return e.explain(err)
			}
			if e.json {
				return e.printJSON(peers)
			}
			rows := make([][]string, len(peers))
			for i, p := range peers {
				rows[i] = []string{p.Name, p.Address, p.Region, p.Node, ago(p.CreatedAt), until(p.ExpiresAt)}
			}
			return e.table([]string{"NAME", "ADDRESS", "REGION", "NODE", "CREATED", "EXPIRES"}, rows)
		}}
	return orgFlag(c, &org)
}

func until(t *time.Time) string {
	if t == nil {
		return "never"
	}
	return "in " + time.Until(*t).Round(time.Minute).String()
}

func wireguardRemoveCmd(e *env) *cobra.Command {
	org := defaultOrg
	c := &cobra.Command{Use: "remove NAME", Aliases: []string{"rm"}, Short: "Shut a laptop out of the private network", Args: exactArgs("NAME"), Example: "  perigee wireguard remove laptop",
		RunE: func(c *cobra.Command, args []string) error {
			client, err := e.client()
			if err != nil {
				return err
			}
			if err := client.DeleteWireGuardPeer(c.Context(), org, args[0]); err != nil {
				return e.explain(err)
			}
			return e.did("removed peer %s", args[0])
		}}
	return orgFlag(c, &org)
}
