package checker

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Config says how one kind of check is made and judged. The field tags are the configuration
// file's rules: its key, the default, and the range that is accepted.
type Config struct {
	// Type is how a server is asked: tcp connects; http and https also send a GET request and judge the
	// answer's status. https verifies the server's certificate. path, host and status belong to these two,
	// ca_file to https.
	Type Kind `toml:"type,required"`
	// Port is where the server is asked, when that is not the port it serves on.
	Port uint16 `toml:"port" range:"1..65535"`
	// Path is what GET asks for.
	Path string `toml:"path" default:"/"`
	// Host is the Host header, and with https the name the certificate must carry. Without it, the server's address.
	Host string `toml:"host"`
	// Status lists the answers that count as success: codes and ranges of codes.
	Status []StatusRange `toml:"status" default:"200-299"`
	// CAFile names a PEM file with the authorities that may have signed the server's certificate. Without it, the system's.
	CAFile string `toml:"ca_file"`
	// CA is CAFile's content: the file is read once, with the configuration.
	CA []byte `toml:"-"`
	// Interval is the time from the start of one check to the start of the next.
	Interval time.Duration `toml:"interval" default:"2s" range:"100ms..1h"`
	// Timeout is how long one check may take; at most the interval.
	Timeout time.Duration `toml:"timeout" default:"1s" range:"10ms..1h"`
	// Rise is how many checks in a row must succeed before a server is up.
	Rise int `toml:"rise" default:"1" range:"1..100"`
	// Fall is how many checks in a row must fail before a server is down.
	Fall int `toml:"fall" default:"2" range:"1..100"`
	// OnFailure is what happens to a server that is down: "weight-zero" lets its connections finish,
	// "remove" takes it out of the table, and its connections are reset.
	OnFailure OnFailure `toml:"on_failure" default:"weight-zero"`
	// Initial is what becomes of a server before its first verdict. One that the kernel has already stays as it is
	// there; a new one stays out with "unknown", and takes traffic at once with "up".
	Initial Initial `toml:"initial" default:"unknown"`
}

// Kind is a way to ask a server. A new kind is a new file and one line in the list of kinds.
type Kind string

// The kinds of check.
const (
	KindTCP   Kind = "tcp"
	KindHTTP  Kind = "http"
	KindHTTPS Kind = "https"
)

// OnFailure is what a down server's entry becomes.
type OnFailure string

// The two ways to take a server out.
const (
	WeightZero OnFailure = "weight-zero"
	Remove     OnFailure = "remove"
)

// Initial is what a server counts as before its first verdict.
type Initial string

// The two ways to begin.
const (
	InitialUnknown Initial = "unknown"
	InitialUp      Initial = "up"
)

// StatusRange is a range of HTTP status codes, both ends included.
type StatusRange struct{ First, Last int }

// UnmarshalText accepts a code or a range of codes within 100..599: "200", "200-299".
func (r *StatusRange) UnmarshalText(text []byte) error {
	first, last, isRange := strings.Cut(string(text), "-")
	if !isRange {
		last = first
	}
	a, errA := strconv.Atoi(first)
	b, errB := strconv.Atoi(last)
	if errA != nil || errB != nil || a < 100 || b > 599 || a > b {
		return fmt.Errorf("%q is no status code or range of them such as \"200-299\"", text)
	}
	*r = StatusRange{a, b}
	return nil
}

// MarshalText writes the form UnmarshalText reads.
func (r StatusRange) MarshalText() ([]byte, error) {
	if r.First == r.Last {
		return strconv.AppendInt(nil, int64(r.First), 10), nil
	}
	return fmt.Appendf(nil, "%d-%d", r.First, r.Last), nil
}
