package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// engineSocket is where a Docker Engine is by default.
const engineSocket = "/var/run/docker.sock"

// engine is as much of the Docker Engine's API as cleaning up needs; all else
// is the agent's work.
type engine struct{ http *http.Client }

func newEngine() *engine {
	return &engine{http: &http.Client{
		Timeout: 20 * time.Second,
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", engineSocket)
		}},
	}}
}

func (e *engine) call(ctx context.Context, method, path string, query url.Values) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://docker/v1.41"+path+"?"+query.Encode(), nil)
	if err != nil {
		return nil, err
	}
	res, err := e.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 8<<20))
	if err != nil {
		return nil, err
	}
	if res.StatusCode >= 300 && res.StatusCode != http.StatusNotFound {
		return nil, fmt.Errorf("%s %s: %s: %s", method, path, res.Status, strings.TrimSpace(string(body)))
	}
	return body, nil
}

// answers reports whether there is an engine on this machine.
func (e *engine) answers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	_, err := e.call(ctx, http.MethodGet, "/version", nil)
	return err == nil
}

// removeContainers removes all containers with a label, running or not.
func (e *engine) removeContainers(ctx context.Context, label string) error {
	filters, err := json.Marshal(map[string][]string{"label": {label}})
	if err != nil {
		return err
	}
	body, err := e.call(ctx, http.MethodGet, "/containers/json", url.Values{"all": {"1"}, "filters": {string(filters)}})
	if err != nil {
		return err
	}
	var found []struct{ ID string }
	if err := json.Unmarshal(body, &found); err != nil {
		return err
	}
	for _, c := range found {
		if _, err := e.call(ctx, http.MethodDelete, "/containers/"+c.ID, url.Values{"force": {"1"}, "v": {"1"}}); err != nil {
			return err
		}
	}
	return nil
}

// removeImage removes an image by the reference that it was pulled by; one
// that was never pulled is no error.
func (e *engine) removeImage(ctx context.Context, reference string) error {
	_, err := e.call(ctx, http.MethodDelete, "/images/"+reference, url.Values{"force": {"1"}})
	return err
}
