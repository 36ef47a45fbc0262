package checker

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// Validate reports what the field tags cannot say: the rules about several keys, and the form of texts.
// It passes over a zero field, which is how a value with a mistake of its own arrives here.
func (c Config) Validate(report func(key, rule string)) {
	if c.Interval != 0 && c.Timeout > c.Interval {
		report("timeout", fmt.Sprintf("longer than the interval, %v", c.Interval))
	}

	// What has its default may not have been written at all.
	written := []struct {
		key   string
		is    bool
		kinds []Kind
	}{
		{"path", c.Path != "" && c.Path != "/", []Kind{KindHTTP, KindHTTPS}},
		{"host", c.Host != "", []Kind{KindHTTP, KindHTTPS}},
		{"status", c.Status != nil && !slices.Equal(c.Status, []StatusRange{{200, 299}}), []Kind{KindHTTP, KindHTTPS}},
		{"ca_file", c.CAFile != "", []Kind{KindHTTPS}},
	}
	for _, w := range written {
		if w.is && c.Type != "" && !slices.Contains(w.kinds, c.Type) {
			report(w.key, fmt.Sprintf("has no meaning with type = %q", c.Type))
		}
	}
	if c.Type == KindTCP {
		return
	}

	if c.Path != "" && !strings.HasPrefix(c.Path, "/") {
		report("path", `does not begin with "/"`)
	} else if strings.ContainsFunc(c.Path, splitsRequest) {
		report("path", "blanks and control characters must be escaped, as in %20")
	}
	if strings.ContainsFunc(c.Host, splitsRequest) {
		report("host", "holds a blank or a control character")
	}
	if c.Status != nil && len(c.Status) == 0 {
		report("status", "no answer would count as success")
	}
}

// splitsRequest reports whether r would end a word of an HTTP request.
func splitsRequest(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }

// UnmarshalText accepts the kinds of check: "tcp", "http" and "https".
func (k *Kind) UnmarshalText(text []byte) error { return oneOf(k, text, KindTCP, KindHTTP, KindHTTPS) }

// UnmarshalText accepts "weight-zero" and "remove".
func (o *OnFailure) UnmarshalText(text []byte) error { return oneOf(o, text, WeightZero, Remove) }

// UnmarshalText accepts "unknown" and "up".
func (i *Initial) UnmarshalText(text []byte) error { return oneOf(i, text, InitialUnknown, InitialUp) }

func oneOf[T ~string](v *T, text []byte, known ...T) error {
	if !slices.Contains(known, T(text)) {
		return fmt.Errorf("%q is none of %q", text, known)
	}
	*v = T(text)
	return nil
}
