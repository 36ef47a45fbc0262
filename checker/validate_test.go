package checker

import (
	"encoding"
	"fmt"
	"slices"
	"testing"
	"time"
)

func TestValidate(t *testing.T) {
	for _, tc := range []struct {
		name string
		c    Config
		want []string
	}{
		{"tcp with defaults", Config{Type: KindTCP, Path: "/", Status: []StatusRange{{200, 299}}, Interval: 2 * time.Second, Timeout: time.Second}, nil},
		{"http with all of its keys", Config{Type: KindHTTP, Path: "/a?b=c", Host: "www.example.org", Status: []StatusRange{{204, 204}}}, nil},
		{"timeout equal to the interval", Config{Type: KindTCP, Interval: time.Second, Timeout: time.Second}, nil},
		{"timeout above the interval", Config{Type: KindTCP, Interval: time.Second, Timeout: 1001 * time.Millisecond}, []string{"timeout: longer than the interval, 1s"}},
		{"interval with a mistake of its own", Config{Type: KindTCP, Timeout: time.Hour}, nil},
		{"type with a mistake of its own", Config{Path: "/a", Host: "b", CAFile: "c"}, nil},
		{"tcp with the keys of others", Config{Type: KindTCP, Path: "/a", Host: "b", Status: []StatusRange{{204, 204}}, CAFile: "c"}, []string{
			`path: has no meaning with type = "tcp"`,
			`host: has no meaning with type = "tcp"`,
			`status: has no meaning with type = "tcp"`,
			`ca_file: has no meaning with type = "tcp"`,
		}},
		{"http with ca_file", Config{Type: KindHTTP, CAFile: "c"}, []string{`ca_file: has no meaning with type = "http"`}},
		{"https with ca_file", Config{Type: KindHTTPS, CAFile: "c"}, nil},
		{"relative path", Config{Type: KindHTTP, Path: "healthz"}, []string{`path: does not begin with "/"`}},
		{"path with a blank", Config{Type: KindHTTP, Path: "/ HTTP/1.0"}, []string{"path: blanks and control characters must be escaped, as in %20"}},
		{"host with a newline", Config{Type: KindHTTPS, Host: "a\r\nb"}, []string{"host: holds a blank or a control character"}},
		{"no status", Config{Type: KindHTTP, Status: []StatusRange{}}, []string{"status: no answer would count as success"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var got []string
			tc.c.Validate(func(key, rule string) { got = append(got, key+": "+rule) })
			if !slices.Equal(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestEnumerations(t *testing.T) {
	for _, tc := range []struct {
		v    encoding.TextUnmarshaler
		good string
		want string // the error for "maybe"
	}{
		{new(Kind), "https", `"maybe" is none of ["tcp" "http" "https"]`},
		{new(OnFailure), "remove", `"maybe" is none of ["weight-zero" "remove"]`},
		{new(Initial), "up", `"maybe" is none of ["unknown" "up"]`},
	} {
		t.Run(fmt.Sprintf("%T", tc.v), func(t *testing.T) {
			if err := tc.v.UnmarshalText([]byte(tc.good)); err != nil {
				t.Error(err)
			}
			if err := tc.v.UnmarshalText([]byte("maybe")); err == nil || err.Error() != tc.want {
				t.Errorf("got %v, want %s", err, tc.want)
			}
		})
	}
}
