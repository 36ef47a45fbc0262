package checker

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
)

// What readStatus takes from a server that has gone mad.
const (
	maxLine    = 8 << 10  // bytes in a line
	maxInterim = 5        // interim answers
	maxAnswer  = 64 << 10 // bytes, all answers together
)

// readStatus reads an HTTP/1 answer up to the status, 100 to 999, and leaves the rest unread. Interim
// answers (RFC 9110 section 15.2) are skipped; 101 is none, since no answer follows it.
func readStatus(r io.Reader) (int, error) {
	limited := &io.LimitedReader{R: r, N: maxAnswer}
	in := bufio.NewReaderSize(limited, maxLine)
	readLine := func() ([]byte, error) {
		line, err := in.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			return nil, fmt.Errorf("answer has a line longer than %d bytes", maxLine)
		case errors.Is(err, io.EOF) && limited.N == 0:
			return nil, fmt.Errorf("answer has no final status in %d bytes", maxAnswer)
		case errors.Is(err, io.EOF):
			return nil, errors.New("connection closed before an answer")
		case err != nil:
			return nil, err
		}
		return bytes.TrimSuffix(line[:len(line)-1], []byte("\r")), nil
	}
	for range maxInterim + 1 {
		line, err := readLine()
		if err != nil {
			return 0, err
		}
		status, ok := parseStatusLine(line)
		if !ok {
			return 0, fmt.Errorf("answer %.40q is not HTTP", line)
		}
		if status >= 200 || status == http.StatusSwitchingProtocols {
			return status, nil
		}
		for len(line) > 0 {
			if line, err = readLine(); err != nil {
				return 0, err
			}
		}
	}
	return 0, fmt.Errorf("more than %d interim answers", maxInterim)
}

// parseStatusLine takes the status from a line such as "HTTP/1.1 200 OK". The reason may be missing.
func parseStatusLine(line []byte) (status int, ok bool) {
	rest, ok := bytes.CutPrefix(line, []byte("HTTP/1."))
	if !ok || len(rest) < 5 || rest[0] < '0' || rest[0] > '9' || rest[1] != ' ' || len(rest) > 5 && rest[5] != ' ' {
		return 0, false
	}
	status, err := strconv.Atoi(string(rest[2:5]))
	return status, err == nil && status >= 100
}
