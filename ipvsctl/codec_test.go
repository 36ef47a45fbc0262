package ipvsctl

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// drawAddr draws any address of a family.
func drawAddr(t *rapid.T, label string, ipv6 bool) netip.Addr {
	if ipv6 {
		return netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, label)))
	}
	return netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, label)))
}

func drawKey(t *rapid.T) ServiceKey {
	ipv6 := rapid.Bool().Draw(t, "IPv6")
	if rapid.Bool().Draw(t, "by mark") {
		return ByMark(rapid.Uint32Min(1).Draw(t, "mark"), ipv6)
	}
	return ServiceKey{
		Protocol: rapid.SampledFrom([]Protocol{TCP, UDP, SCTP}).Draw(t, "protocol"),
		Addr:     netip.AddrPortFrom(drawAddr(t, "address", ipv6), rapid.Uint16().Draw(t, "port")),
	}
}

func drawSettings(t *rapid.T, key ServiceKey) Settings {
	s := Settings{
		Scheduler: rapid.SampledFrom(append([]string{"unheard-of"}, Schedulers...)).Draw(t, "scheduler"),
		Flags:     rapid.SampledFrom([]Flags{0, OnePacket, Fallback, SourcePort | Flag3}).Draw(t, "flags"),
	}
	if rapid.Bool().Draw(t, "persistent") {
		s.Persistence = time.Duration(rapid.IntRange(1, 1e6).Draw(t, "seconds")) * time.Second
		s.ClientMask = PrefixMask(rapid.IntRange(1, key.Addr.Addr().BitLen()).Draw(t, "client bits"), key.IsIPv6())
		if !key.IsIPv6() && rapid.Bool().Draw(t, "no prefix") {
			s.ClientMask = ClientMask(rapid.Uint32().Draw(t, "client mask"))
		}
	}
	s.Engine = rapid.SampledFrom([]string{"", "sip"}).Draw(t, "engine")
	return s
}

func drawDestination(t *rapid.T) Destination {
	return Destination{
		Method: rapid.SampledFrom([]Method{NAT, Local, DR, TUN}).Draw(t, "method"),
		Weight: rapid.IntRange(0, 1<<31-1).Draw(t, "weight"),
		Upper:  rapid.Uint32().Draw(t, "upper"),
		Lower:  rapid.Uint32().Draw(t, "lower"),
		Tunnel: rapid.SampledFrom([]Tunnel{{}, {Type: GUE, Port: 6080, Checksum: RemoteChecksum}, {Type: GRE, Checksum: FullChecksum}}).Draw(t, "tunnel"),
	}
}

// TestCodecRoundTrip: what is asked of the kernel reads back as the same value, had the kernel stored it so.
func TestCodecRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k := drawKey(t)
		s := drawSettings(t, k)
		b := appendOp(nil, &Op{Kind: AddService, Service: k, Settings: s})
		gotKey, gotSettings, _, err := decodeService(b)
		if err != nil || gotKey != k || gotSettings != s {
			t.Fatalf("service %v %+v reads back as %v %+v, error %v", k, s, gotKey, gotSettings, err)
		}
		if len(b)%4 != 0 {
			t.Fatalf("%d bytes: the next message would not be aligned", len(b))
		}

		// Over TUN the families may differ.
		server := netip.AddrPortFrom(drawAddr(t, "server", rapid.Bool().Draw(t, "server IPv6")), rapid.Uint16().Draw(t, "server port"))
		d := drawDestination(t)
		b = appendOp(nil, &Op{Kind: EditDestination, Service: k, Server: server, Destination: d})
		gotServer, gotDest, _, err := decodeDest(b, familyOf(k.Addr.Addr()))
		if err != nil || gotServer != server || gotDest != d {
			t.Fatalf("server %v %+v reads back as %v %+v, error %v", server, d, gotServer, gotDest, err)
		}
		if gotKey, _, _, err := decodeService(b); err != nil || gotKey != k {
			t.Fatalf("the server's service %v reads back as %v, error %v", k, gotKey, err)
		}

		want := Daemon{
			Role:      rapid.SampledFrom([]Role{SyncMaster, SyncBackup}).Draw(t, "role"),
			Interface: rapid.StringMatching(`[a-z0-9.]{1,15}`).Draw(t, "interface"),
			ID:        rapid.Uint8().Draw(t, "id"), TTL: rapid.Uint8().Draw(t, "ttl"),
			MaxLen: rapid.Uint16().Draw(t, "maxlen"), Port: rapid.Uint16().Draw(t, "sync port"),
		}
		if rapid.Bool().Draw(t, "has a group") {
			want.Group = drawAddr(t, "group", rapid.Bool().Draw(t, "group IPv6"))
		}
		if got, err := decodeDaemon(appendDaemon(nil, want)); err != nil || got != want {
			t.Fatalf("daemon %+v reads back as %+v, error %v", want, got, err)
		}
	})
}

func TestDecodeServiceIgnoresWhatDoesNotApply(t *testing.T) {
	// The kernel keeps timeout and netmask of a service that is no longer persistent; an engine is one that was asked for.
	k := key("192.0.2.10:80")
	b, nest := beginNest(nil, attrService)
	b = append16(b, svcFamily, unix.AF_INET)
	b = append16(b, svcProtocol, uint16(TCP))
	addr := k.Addr.Addr().As4()
	b = append(append(appendHeader(b, svcAddr, 16), addr[:]...), make([]byte, 12)...) // 16 bytes, as the kernel answers
	b = appendPort(b, svcPort, 80)
	b = appendText(b, svcScheduler, "rr")
	b = native.AppendUint32(native.AppendUint32(appendHeader(b, svcFlags, 8), flagHashed), ^uint32(0))
	b = append32(b, svcTimeout, 300)
	b = append(appendHeader(b, svcNetmask, 4), 255, 255, 255, 0)
	b = appendText(b, svcEngine, "sip")
	gotKey, got, _, err := decodeService(endNest(b, nest))
	if want := (Settings{Scheduler: "rr", Engine: "sip"}); err != nil || gotKey != k || got != want {
		t.Errorf("got %v %+v, error %v; want %v %+v", gotKey, got, err, k, want)
	}
}

func TestDecodeInfo(t *testing.T) {
	got, err := decodeInfo(append32(append32(nil, infoVersion, 0x010201), infoTableSize, 4096))
	if want := (Info{Version: [3]uint8{1, 2, 1}, TableSize: 4096}); err != nil || got != want {
		t.Errorf("got %+v, error %v; want %+v", got, err, want)
	}
}

// TestDecodeTruncated: a message that ends anywhere is an error or lacks something, and never a panic.
func TestDecodeTruncated(t *testing.T) {
	b := appendOp(nil, &Op{Kind: AddService, Service: key("192.0.2.10:80"), Settings: Settings{Scheduler: "wlc", Persistence: time.Minute}})
	for n := range b {
		if _, _, _, err := decodeService(b[:n]); !errors.Is(err, errMalformed) {
			t.Errorf("of %d bytes the first %d: error %v, want %v", len(b), n, err, errMalformed)
		}
	}
}

// FuzzDecode: no message of a kernel, however strange, may panic.
func FuzzDecode(f *testing.F) {
	k := key("192.0.2.10:80")
	f.Add(appendOp(nil, &Op{Kind: AddService, Service: k, Settings: Settings{Scheduler: "wlc", Persistence: time.Minute, ClientMask: 0xff}}))
	f.Add(appendOp(nil, &Op{Kind: AddService, Service: ByMark(66, true), Settings: Settings{Scheduler: "mh", Flags: Fallback}}))
	f.Add(appendOp(nil, &Op{
		Kind: AddDestination, Service: k, Server: netip.MustParseAddrPort("[2001:db8::1]:80"),
		Destination: Destination{Method: TUN, Tunnel: Tunnel{Type: GUE, Port: 6080}},
	}))
	f.Add(appendDaemon(nil, Daemon{Role: SyncMaster, Interface: "eth1", ID: 51}))
	f.Fuzz(func(t *testing.T, b []byte) {
		decodeService(b)
		decodeDest(b, unix.AF_INET)
		decodeDaemon(b)
		decodeInfo(b)
	})
}
