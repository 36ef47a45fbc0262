package ipvsctl

import "fmt"

// Tunnel is what packets travel in to a server behind TUN. The zero value is IPIP.
type Tunnel struct {
	// Type is the outer packet: "ipip" is plain IP in IP, "gue" wraps that in UDP, which passes firewalls and
	// spreads over network queues, "gre" is generic routing encapsulation.
	Type TunnelType `toml:"type" default:"ipip"`
	// Port is where the server takes GUE packets; only with "gue", and required there.
	Port uint16 `toml:"port" range:"1..65535"`
	// Checksum protects what GUE and GRE add: "none", "full", or with GUE "remote", which leaves it to the server's
	// network card. The server's tunnel must be set up alike, or packets vanish.
	Checksum Checksum `toml:"checksum" default:"none"`
}

// String is "ipip", "gue port 6080", "gre checksum full".
func (t Tunnel) String() string {
	text := t.Type.String()
	if t.Port != 0 {
		text += fmt.Sprintf(" port %d", t.Port)
	}
	if t.Checksum != NoChecksum {
		text += fmt.Sprintf(" checksum %v", t.Checksum)
	}
	return text
}

// Validate reports each rule that the parameters break, by key (ip_vs_genl_parse_dest and ipvsadm).
func (t Tunnel) Validate(report func(key, rule string)) {
	switch {
	case t.Type == GUE && t.Port == 0:
		report("port", `required with type = "gue"`)
	case t.Type != GUE && t.Port != 0:
		report("port", fmt.Sprintf("means nothing with type = %q", t.Type))
	}
	switch {
	case t.Type == IPIP && t.Checksum != NoChecksum:
		report("checksum", `means nothing with type = "ipip"`)
	case t.Type == GRE && t.Checksum == RemoteChecksum:
		report("checksum", `"remote" is only for type = "gue"`)
	}
}

// TunnelType is the outer packet, as the kernel numbers it (IP_VS_CONN_F_TUNNEL_TYPE_* in include/uapi/linux/ip_vs.h).
type TunnelType uint8

// The tunnels. A kernel before 5.3 knows only IPIP, and takes the others for it.
const (
	IPIP TunnelType = 0
	GUE  TunnelType = 1
	GRE  TunnelType = 2
)

var tunnelNames = map[TunnelType]string{IPIP: "ipip", GUE: "gue", GRE: "gre"}

// String returns the name used in the configuration.
func (t TunnelType) String() string { return nameOf(tunnelNames, t) }

// MarshalText writes the configuration's name.
func (t TunnelType) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText accepts "ipip", "gue" and "gre".
func (t *TunnelType) UnmarshalText(text []byte) error { return byName(tunnelNames, t, text) }

// Checksum is how the outer packet is protected (IP_VS_TUNNEL_ENCAP_FLAG_* in include/uapi/linux/ip_vs.h).
type Checksum uint8

// The checksums of a tunnel.
const (
	NoChecksum     Checksum = 0
	FullChecksum   Checksum = 1
	RemoteChecksum Checksum = 2
)

var checksumNames = map[Checksum]string{NoChecksum: "none", FullChecksum: "full", RemoteChecksum: "remote"}

// String returns the name used in the configuration.
func (c Checksum) String() string { return nameOf(checksumNames, c) }

// MarshalText writes the configuration's name.
func (c Checksum) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText accepts "none", "full" and "remote".
func (c *Checksum) UnmarshalText(text []byte) error { return byName(checksumNames, c, text) }
