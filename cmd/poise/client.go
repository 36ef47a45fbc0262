package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"strings"
	"syscall"

	"poise/internal/director"
)

// maxComplaint bounds what is read of an answer that is an error: every mistake of a long file fits.
const maxComplaint = 1 << 20

// request asks the daemon with this runtime directory. The caller closes the answer.
func request(ctx context.Context, runtimeDir, method, path string, body any) (io.ReadCloser, error) {
	content, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://poise"+path, bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	socket := director.SocketPath(runtimeDir)
	client := http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}
	answer, err := client.Do(r)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("%s: no poise answers here: is it running, with this --runtime-dir?", socket)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%s: permission denied: be root, or a member of the group poise", socket)
	case err != nil:
		return nil, err
	}
	if answer.StatusCode != http.StatusOK {
		defer answer.Body.Close()
		complaint, err := io.ReadAll(io.LimitReader(answer.Body, maxComplaint))
		return nil, errors.Join(errors.New(strings.TrimSpace(string(complaint))), err)
	}
	return answer.Body, nil
}
