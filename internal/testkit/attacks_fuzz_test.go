package testkit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"testing"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/server"
	"stella-ops.org/stella/internal/testkit"
)

// quietServer is a control plane that logs nothing, as a fuzz test needs it.
func quietServer(f *testing.F) *testkit.ControlPlane {
	f.Helper()
	cfg := testkit.ServerConfig(f.TempDir())
	cfg.Listen = testkit.FreePort(f)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	s := &server.Server{Config: cfg, Out: io.Discard, Log: slog.New(slog.DiscardHandler)}
	go func() { done <- s.Run(ctx) }()
	cp := testkit.Attach(f, cfg.Data, cfg.Listen)
	f.Cleanup(func() {
		cp.Client.Close()
		stop()
		if err := <-done; err != nil {
			f.Error(err)
		}
	})
	return cp
}

// fuzzBody sends bodies to an operation, each of which is answered or refused,
// and fails nothing.
func fuzzBody(f *testing.F, c *http.Client, url string, header map[string]string, answer func() any) {
	f.Helper()
	f.Fuzz(func(t *testing.T, body []byte) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		for k, v := range header {
			req.Header.Set(k, v)
		}
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		data, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case res.StatusCode == http.StatusOK:
			if err := json.Unmarshal(data, answer()); err != nil {
				t.Fatalf("%v: %s", err, data)
			}
		case res.StatusCode >= 500 || problem(t, data).Status != res.StatusCode:
			t.Fatalf("%d %s", res.StatusCode, data)
		}
	})
}

func FuzzRegisterBody(f *testing.F) {
	cp := quietServer(f)
	token := cp.Token(func(r *api.RegistrationTokenRequest) { r.MaxUses, r.TTLSeconds = 100_000, 86_400 })
	request := csr(f, newKey(f))
	for _, r := range []api.RegisterRequest{
		{Name: "web", CSR: request},
		{Name: "web-2", CSR: request, ID: "host-7", Group: "a", Environment: "b", Platform: "linux", Version: "1"},
		{Name: "x", CSR: request, Labels: map[string]string{"a/b": "c"}, Capabilities: []string{"docker.deploy"}, Routes: []string{"r"}, EncryptionPublicKey: "AAAA"},
	} {
		f.Add([]byte(marshal(f, r)))
	}
	for _, text := range []string{"", "{}", "[]", "null", `{"name":"\u0000","csr":"x"}`, `{"name":"a","csr":"x","more":[[[]]]}`, "\xff"} {
		f.Add([]byte(text))
	}
	fuzzBody(f, httpClient(tlsConfig(cp)), cp.URL+"/api/v1/agents/register", map[string]string{api.HeaderRegistrationToken: token}, func() any { return new(api.RegisterResponse) })
}

func FuzzHeartbeatBody(f *testing.F) {
	cp := quietServer(f)
	h := newHandmade(f, cp, "fuzzed", "host")
	for _, r := range []api.HeartbeatRequest{
		{Status: "online"},
		{Status: "degraded", NotAccepting: "busy", MaxTasks: 5, Capabilities: []string{"docker", "host.execute"}},
		{ResourceUsage: &api.ResourceUsage{Load1: .5}, RunningTasks: []api.TaskRef{{TaskID: "x", Attempt: 1}}},
	} {
		f.Add([]byte(marshal(f, r)))
	}
	for _, text := range []string{"", "{}", "[]", "null", `{"status":"\u0000"}`, `{"runningTasks":[null]}`, `{"maxTasks":-1}`, `{"resourceUsage":{"load1":1e308}}`, "\xff"} {
		f.Add([]byte(text))
	}
	fuzzBody(f, httpClient(tlsConfig(cp, h.cert)), h.url("/heartbeat"), nil, func() any { return new(api.HeartbeatResponse) })
}
