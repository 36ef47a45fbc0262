package ipvsctl

import (
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestCodecRoundTrip: what is asked of the kernel reads back as the same value, had the kernel stored it so.
func TestCodecRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		addr := func(label string, v6 bool) netip.Addr {
			if v6 {
				return netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, label)))
			}
			return netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, label)))
		}
		v6 := rapid.Bool().Draw(t, "IPv6")
		k := ServiceKey{
			Protocol: rapid.SampledFrom([]Protocol{TCP, UDP}).Draw(t, "protocol"),
			Addr:     netip.AddrPortFrom(addr("address", v6), rapid.Uint16().Draw(t, "port")),
		}
		s := Settings{
			Scheduler: rapid.SampledFrom(Schedulers).Draw(t, "scheduler"),
			Flags:     rapid.SampledFrom([]Flags{0, OnePacket, 8, 16}).Draw(t, "flags"),
			Engine:    rapid.SampledFrom([]string{"", "sip"}).Draw(t, "engine"),
		}
		if rapid.Bool().Draw(t, "persistent") {
			s.Persistence = time.Duration(rapid.IntRange(1, 1e6).Draw(t, "seconds")) * time.Second
			s.ClientBits = rapid.IntRange(0, k.Addr.Addr().BitLen()-1).Draw(t, "client bits")
		}
		gotKey, gotSettings, _, err := decodeService(encodeOp(Op{Kind: AddService, Service: k, Settings: s}))
		if err != nil || gotKey != k || gotSettings != s {
			t.Fatalf("service %v %+v reads back as %v %+v, error %v", k, s, gotKey, gotSettings, err)
		}

		serverV6 := rapid.Bool().Draw(t, "server IPv6") // over TUN the families may differ
		server := netip.AddrPortFrom(addr("server", serverV6), rapid.Uint16().Draw(t, "server port"))
		d := Destination{
			Method: rapid.SampledFrom([]Method{NAT, DR, TUN}).Draw(t, "method"),
			Weight: rapid.IntRange(0, 1<<31-1).Draw(t, "weight"),
			Upper:  rapid.Uint32().Draw(t, "upper"),
			Lower:  rapid.Uint32().Draw(t, "lower"),
		}
		gotServer, gotDest, _, err := decodeDest(encodeOp(Op{Kind: EditDestination, Service: k, Server: server, Destination: d}), familyOf(k.Addr.Addr()))
		if err != nil || gotServer != server || gotDest != d {
			t.Fatalf("server %v %+v reads back as %v %+v, error %v", server, d, gotServer, gotDest, err)
		}
	})
}

func TestDecodeServiceIgnoresWhatDoesNotApply(t *testing.T) {
	// The kernel keeps timeout and netmask of a service that is no longer persistent.
	k := key("192.0.2.10:80")
	b := appendNest(genlHeader(cmdNewService), attrService, func(b []byte) []byte {
		b = appendAttr(b, svcFamily, native.AppendUint16(nil, familyOf(k.Addr.Addr())))
		b = appendAttr(b, svcProtocol, native.AppendUint16(nil, uint16(TCP)))
		b = appendAttr(b, svcAddr, append(k.Addr.Addr().AsSlice(), make([]byte, 12)...)) // 16 bytes, as the kernel answers
		b = appendAttr(b, svcPort, []byte{0, 80})
		b = appendAttr(b, svcScheduler, []byte("rr\x00"))
		b = appendAttr(b, svcFlags, native.AppendUint32(native.AppendUint32(nil, flagHashed), ^uint32(0)))
		b = appendAttr(b, svcTimeout, native.AppendUint32(nil, 300))
		return appendAttr(b, svcNetmask, []byte{255, 255, 255, 0})
	})
	gotKey, got, _, err := decodeService(b)
	if want := (Settings{Scheduler: "rr"}); err != nil || gotKey != k || got != want {
		t.Errorf("got %v %+v, error %v; want %v %+v", gotKey, got, err, k, want)
	}
}

func TestDecodeServiceByMark(t *testing.T) {
	b := appendNest(genlHeader(cmdNewService), attrService, func(b []byte) []byte {
		b = appendAttr(b, svcFamily, native.AppendUint16(nil, 2))
		return appendAttr(b, svcFwmark, native.AppendUint32(nil, 66))
	})
	if _, _, _, err := decodeService(b); err != errNotAddress {
		t.Errorf("error %v, want %v", err, errNotAddress)
	}
}

// FuzzDecode: no message of a kernel, however strange, may panic.
func FuzzDecode(f *testing.F) {
	k := key("192.0.2.10:80")
	f.Add(encodeOp(Op{Kind: AddService, Service: k, Settings: Settings{Scheduler: "wlc", Persistence: time.Minute, ClientBits: 24}}))
	f.Add(encodeOp(Op{Kind: AddDestination, Service: k, Server: netip.MustParseAddrPort("[2001:db8::1]:80")}))
	f.Fuzz(func(t *testing.T, b []byte) {
		decodeService(b)
		decodeDest(b, 2)
	})
}
