package checker

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
)

func TestReadStatus(t *testing.T) {
	const interim = "HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"
	for _, tt := range []struct {
		name, answer string
		status       int
		err          string
	}{
		{"usual", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, ""},
		{"old, without headers", "HTTP/1.0 404 Not Found\r\n", 404, ""},
		{"no reason", "HTTP/1.1 204\r\n", 204, ""},
		{"empty reason", "HTTP/1.1 204 \r\n", 204, ""},
		{"line feeds alone", "HTTP/1.1 100 Continue\n\nHTTP/1.1 200 OK\n\n", 200, ""},
		{"interim answers", strings.Repeat(interim, maxInterim) + "HTTP/1.1 503 Busy\r\n", 503, ""},
		{"switching protocols is final", "HTTP/1.1 101 Switching Protocols\r\n", 101, ""},
		{"beyond the known statuses", "HTTP/1.1 999 Go Away\r\n", 999, ""},

		{"nothing", "", 0, "connection closed before an answer"},
		{"cut short", "HTTP/1.1 200 OK", 0, "connection closed before an answer"},
		{"cut short after an interim answer", interim, 0, "connection closed before an answer"},
		{"too many interim answers", strings.Repeat(interim, maxInterim+1), 0, "more than 5 interim answers"},
		{"endless line", "HTTP/1.1 200 " + strings.Repeat("x", maxLine), 0, "answer has a line longer than 8192 bytes"},
		{"endless headers", "HTTP/1.1 100 Continue\r\n" + strings.Repeat("A: b\r\n", maxAnswer), 0, "answer has no final status in 65536 bytes"},
		{"another protocol", "SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n", 0, `answer "SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3" is not HTTP`},
		{"another version", "HTTP/2.0 200 OK\r\n", 0, `answer "HTTP/2.0 200 OK" is not HTTP`},
		{"empty line first", "\r\nHTTP/1.1 200 OK\r\n", 0, `answer "" is not HTTP`},
		{"short status", "HTTP/1.1 20 OK\r\n", 0, `answer "HTTP/1.1 20 OK" is not HTTP`},
		{"long status", "HTTP/1.1 2000 OK\r\n", 0, `answer "HTTP/1.1 2000 OK" is not HTTP`},
		{"status below 100", "HTTP/1.1 099 OK\r\n", 0, `answer "HTTP/1.1 099 OK" is not HTTP`},
		{"signed status", "HTTP/1.1 +20 OK\r\n", 0, `answer "HTTP/1.1 +20 OK" is not HTTP`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, err := readStatus(strings.NewReader(tt.answer))
			if status != tt.status || errorText(err) != tt.err {
				t.Errorf("got %d, %v, want %d, %s", status, err, tt.status, tt.err)
			}
		})
	}
}

// FuzzAnswer holds readStatus to its bounds and, where net/http accepts the same answers, to its status.
// Each of the two accepts what the other refuses: net/http judges the headers as well, and readStatus
// wants HTTP/1 and digits only. Those answers are not compared.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\n\r\n"))
	f.Add([]byte("HTTP/1.0 301\nLocation: /\n\n"))
	f.Add([]byte("HTTP/1.1 100 Continue\r\nA: b\r\n c\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 103 \r\n \r\n\r\nHTTP/1.1 101 \r\n\r\n"))
	f.Fuzz(func(t *testing.T, answer []byte) {
		r := bytes.NewReader(answer)
		got, err := readStatus(r)
		if read := len(answer) - r.Len(); read > maxAnswer {
			t.Fatalf("read %d bytes", read)
		}
		if err != nil {
			return
		}
		if got < 100 || got > 999 {
			t.Fatalf("status %d", got)
		}
		if want, err := referenceStatus(bytes.NewReader(answer)); err == nil && got != want {
			t.Fatalf("status %d, net/http says %d", got, want)
		}
	})
}

// referenceStatus is readStatus without bounds, by net/http.
func referenceStatus(r io.Reader) (int, error) {
	for in := bufio.NewReader(r); ; {
		answer, err := http.ReadResponse(in, nil)
		if err != nil {
			return 0, err
		}
		if answer.StatusCode >= 200 || answer.StatusCode == http.StatusSwitchingProtocols {
			return answer.StatusCode, nil
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
