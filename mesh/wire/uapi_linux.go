package wire

import (
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// uapi writes a change in wireguard-go's own language.
func uapi(cfg wgtypes.Config) string {
	var b strings.Builder
	line := func(key, value string) { b.WriteString(key + "=" + value + "\n") }
	if cfg.PrivateKey != nil {
		line("private_key", hex.EncodeToString(cfg.PrivateKey[:]))
	}
	if cfg.ListenPort != nil {
		line("listen_port", strconv.Itoa(*cfg.ListenPort))
	}
	for _, p := range cfg.Peers {
		line("public_key", hex.EncodeToString(p.PublicKey[:]))
		peerLines(line, p)
	}
	return b.String()
}

func peerLines(line func(key, value string), p wgtypes.PeerConfig) {
	if p.Remove {
		line("remove", "true")
		return
	}
	if p.UpdateOnly {
		line("update_only", "true")
	}
	if p.Endpoint != nil {
		line("endpoint", p.Endpoint.String())
	}
	if p.PersistentKeepaliveInterval != nil {
		line("persistent_keepalive_interval", strconv.Itoa(int(p.PersistentKeepaliveInterval.Seconds())))
	}
	if p.ReplaceAllowedIPs {
		line("replace_allowed_ips", "true")
	}
	for _, a := range p.AllowedIPs {
		line("allowed_ip", a.String())
	}
}

// parsePeers reads what wireguard-go says of its peers.
func parsePeers(text string) (map[Key]wgtypes.Peer, error) {
	all := map[Key]wgtypes.Peer{}
	var key Key
	for l := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSuffix(l, "\n"), "=")
		if name == "public_key" {
			b, err := hex.DecodeString(value)
			if err != nil || len(b) != keySize {
				return nil, fmt.Errorf("cannot read key %q of a peer", value)
			}
			key = Key(b)
			all[key] = wgtypes.Peer{PublicKey: wgtypes.Key(key)}
			continue
		}
		if key.IsZero() {
			continue // the device's own
		}
		p := all[key]
		if err := peerField(&p, name, value); err != nil {
			return nil, fmt.Errorf("cannot read %s %q of a peer: %w", name, value, err)
		}
		all[key] = p
	}
	return all, nil
}

func peerField(p *wgtypes.Peer, name, value string) error {
	switch name {
	case "endpoint":
		a, err := netip.ParseAddrPort(value)
		p.Endpoint = net.UDPAddrFromAddrPort(a)
		return err
	case "allowed_ip":
		a, err := netip.ParsePrefix(value)
		if err != nil {
			return err
		}
		p.AllowedIPs = append(p.AllowedIPs, ipNets([]netip.Prefix{a})...)
		return nil
	}
	return peerNumber(p, name, value)
}

func peerNumber(p *wgtypes.Peer, name, value string) error {
	n := func() int64 { v, _ := strconv.ParseInt(value, 10, 64); return v }
	switch name {
	case "last_handshake_time_sec":
		if n() > 0 {
			p.LastHandshakeTime = time.Unix(n(), 0)
		}
	case "last_handshake_time_nsec":
		if !p.LastHandshakeTime.IsZero() {
			p.LastHandshakeTime = p.LastHandshakeTime.Add(time.Duration(n()))
		}
	case "rx_bytes":
		p.ReceiveBytes = n()
	case "tx_bytes":
		p.TransmitBytes = n()
	case "persistent_keepalive_interval":
		p.PersistentKeepaliveInterval = time.Duration(n()) * time.Second
	}
	return nil
}
