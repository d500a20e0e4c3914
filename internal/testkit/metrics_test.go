package testkit_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
	"stella-ops.org/stella/internal/agent"
	"stella-ops.org/stella/internal/obs/metrics"
	"stella-ops.org/stella/internal/server"
	"stella-ops.org/stella/internal/testkit"
)

// families are metrics as a program tells them.
type families map[string]*dto.MetricFamily

func parseMetrics(t testing.TB, text []byte) families {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	f, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	return f
}

// scrape reads the metrics of an address that needs no token.
func scrape(t testing.TB, addr string) families {
	t.Helper()
	var text []byte
	testkit.Eventually(t, 20*time.Second, "the metrics at "+addr, func() (bool, string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+"/metrics", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return false, err.Error()
		}
		defer res.Body.Close()
		text, err = io.ReadAll(res.Body)
		return err == nil && res.StatusCode == http.StatusOK, fmt.Sprint(res.Status, err)
	})
	return parseMetrics(t, text)
}

// value is that of a metric with the given labels, as in "reason", "renewal"; -1
// when there is none.
func (f families) value(name string, labels ...string) float64 {
	for _, m := range f[name].GetMetric() {
		have := map[string]string{}
		for _, l := range m.GetLabel() {
			have[l.GetName()] = l.GetValue()
		}
		matches := true
		for i := 0; i+1 < len(labels); i += 2 {
			matches = matches && have[labels[i]] == labels[i+1]
		}
		if matches {
			return m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return -1
}

// measuredServer is a server whose metrics can be read without a token.
func measuredServer(t *testing.T, change ...func(*server.Config)) *testkit.ControlPlane {
	t.Helper()
	return testkit.StartServer(t, append(change, func(c *server.Config) { c.MetricsAddr = testkit.FreePort(t) })...)
}

// metricRow is a row of the page.
var metricRow = regexp.MustCompile("(?m)^\\| `(stella_[a-z_]+)` \\| (counter|gauge) \\|((?: `[a-z_]+`)*) \\| (.+) \\|$")

// What the page says is what there is, and nothing is missing on either side.
func TestMetricsPage(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	said := map[string]string{}
	for _, m := range metricRow.FindAllStringSubmatch(string(text), -1) {
		labels := strings.Fields(strings.ReplaceAll(m[3], "`", ""))
		said[m[1]] = strings.Join([]string{m[2], strings.Join(labels, " "), m[4]}, " | ")
	}
	cp := measuredServer(t)
	a := cp.StartAgent("a", func(c *agent.Config) { c.MetricsAddr = testkit.FreePort(t) })
	all := scrape(t, cp.Config().MetricsAddr)
	maps.Copy(all, scrape(t, a.Config.MetricsAddr))
	for name, f := range all {
		if strings.HasPrefix(name, "go_") || strings.HasPrefix(name, "process_") {
			continue
		}
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, l.GetName())
		}
		is := strings.Join([]string{strings.ToLower(f.GetType().String()), strings.Join(slices.Sorted(slices.Values(labels)), " "), f.GetHelp()}, " | ")
		if said[name] != is {
			t.Errorf("%s\nis   %s\nsaid %s", name, is, said[name])
		}
		delete(said, name)
	}
	for name := range said {
		t.Errorf("the page has %s, which nothing tells", name)
	}
	for _, name := range []string{"go_goroutines", "process_open_fds", "process_resident_memory_bytes"} {
		if all.value(name) <= 0 {
			t.Errorf("%s: %f", name, all.value(name))
		}
	}
}

// Every token of the first tenant reads the metrics, and nobody else; and what is
// read is the same as without a token, in either format.
func TestMetricsNeedAToken(t *testing.T) {
	t.Parallel()
	cp := measuredServer(t)
	as := func(token string) *client.Client {
		c, err := client.New(client.Options{URL: cp.URL, Token: token, CACert: cp.CA})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c
	}
	made, err := cp.Client.CreateAPIToken(t.Context(), api.APITokenRequest{Name: "scraper", Role: api.RoleViewer})
	if err != nil {
		t.Fatal(err)
	}
	text, err := as(made.Token).Metrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	with, without := parseMetrics(t, text), scrape(t, cp.Config().MetricsAddr)
	if a, b := slices.Sorted(maps.Keys(with)), slices.Sorted(maps.Keys(without)); !slices.Equal(a, b) {
		t.Errorf("with a token\n%v\nand without\n%v", a, b)
	}
	for token, code := range map[string]string{"": "unauthenticated", "stl_wrong": "unauthenticated", withOtherTenant(t, cp, database(t, cp)): "not_your_installation"} {
		text, err := as(token).Metrics(t.Context())
		if p, ok := errors.AsType[*api.Problem](err); !ok || p.Code != code {
			t.Errorf("with the token %q: %v\n%s", token, err, text)
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, cp.URL+"/metrics", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+made.Token)
	req.Header.Set("Accept", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
	res, err := httpClient(tlsConfig(cp)).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || !strings.HasPrefix(res.Header.Get("Content-Type"), "application/openmetrics-text;") || !bytes.HasSuffix(body, []byte("# EOF\n")) {
		t.Errorf("%s %v %v", res.Status, res.Header, err)
	}
}

// A certificate's whole life is seen from both sides: registration, renewal,
// refusal, revocation.
func TestMetricsOfCertificates(t *testing.T) {
	t.Parallel()
	cp := measuredServer(t)
	began := time.Now()
	a := cp.StartAgent("a", func(c *agent.Config) { c.MetricsAddr, c.Environment = testkit.FreePort(t), "prod" })
	srv := func() families { return scrape(t, cp.Config().MetricsAddr) }
	eventually := func(what string, of func() families, want float64, name string, labels ...string) {
		t.Helper()
		testkit.Eventually(t, 20*time.Second, what, func() (bool, string) {
			got := of().value(name, labels...)
			return got == want, fmt.Sprintf("%s %q is %v, and not %v", name, labels, got, want)
		})
	}
	own := func() families { return scrape(t, a.Config.MetricsAddr) }
	expiry := func() float64 { return float64(keyPair(t, credential(t, a)).Leaf.NotAfter.Unix()) }

	eventually("the registration", srv, 1, metrics.CertificatesIssued, "reason", "registration")
	eventually("the bootstrap", srv, 1, metrics.AgentBootstraps, "environment", "prod")
	eventually("its success", srv, 1, metrics.AgentBootstrapsSucceeded, "environment", "prod")
	eventually("the link", own, 1, metrics.AgentConnected)
	shown, err := cp.Client.Agent(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	eventually("the agent's id", own, expiry(), metrics.AgentCertificateExpiry, "agent_id", shown.ID)
	eventually("no renewal yet", own, 0, metrics.AgentCertificateRenewed, "status", "success")

	first := expiry()
	send(t, cp, "a", "renew-certificate", `{"force":true}`)
	eventually("the renewal", srv, 1, metrics.CertificatesIssued, "reason", "renewal")
	eventually("its first use", srv, 1, metrics.CertificatesAdopted)
	eventually("the renewal, as the agent has it", own, 1, metrics.AgentCertificateRenewal, "status", "success")
	if at := own().value(metrics.AgentCertificateRenewed, "status", "success"); at < float64(began.Unix()) || at > float64(time.Now().Unix()) {
		t.Errorf("the last renewal was at %v", at)
	}
	eventually("the end of the new one", own, expiry(), metrics.AgentCertificateExpiry)
	if expiry() < first {
		t.Errorf("the certificate ended at %v, and the next one at %v", first, expiry())
	}
	eventually("the link, over the new one", own, 1, metrics.AgentConnected)

	// A token that is used, and one that is made up.
	for token, reason := range map[string]string{"reg_no": "token_unknown", usedToken(t, cp): "token_used"} {
		if status, body := register(t, cp, token, api.RegisterRequest{Name: "x", CSR: csr(t, newKey(t))}); status != http.StatusUnauthorized {
			t.Errorf("%d %s", status, body)
		}
		eventually(reason, srv, 1, metrics.AgentBootstrapsFailed, "reason", reason)
	}
	// A request for another key that is none.
	h := newHandmade(t, cp, "h")
	if status, body := call(t, httpClient(tlsConfig(cp, h.cert)), http.MethodPost, h.url("/certificate"), nil, api.CertificateRequest{CSR: "x"}); status != http.StatusUnprocessableEntity {
		t.Errorf("%d %s", status, body)
	}
	eventually("the bad request", srv, 1, metrics.RenewalsRefused, "reason", "invalid")

	// An agent that holds a link, and one that holds a stream, are put out.
	stream := h.listen(t, nil)
	if _, err := cp.Client.RevokeAgent(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if err := cp.Client.DeleteAgent(t.Context(), "h"); err != nil {
		t.Fatal(err)
	}
	stream.wantEnd()
	eventually("the revocation", srv, 1, metrics.Revocations, "reason", "revoked")
	eventually("the deletion", srv, 1, metrics.Revocations, "reason", "deleted")
	eventually("the link's end", srv, 1, metrics.LinksCut, "reason", "agent_revoked")
	eventually("the stream's end", srv, 1, metrics.LinksCut, "reason", "agent_deleted")
	eventually("the link's end, as the agent has it", own, 0, metrics.AgentConnected)
	if status, _ := call(t, httpClient(tlsConfig(cp, keyPair(t, credential(t, a)))), http.MethodPost, cp.URL+"/api/v1/agents/"+shown.ID+"/certificate", nil, api.CertificateRequest{CSR: csr(t, newKey(t))}); status != http.StatusForbidden {
		t.Errorf("a revoked agent's renewal: %d", status)
	}
	eventually("the refused renewal", srv, 1, metrics.RenewalsRefused, "reason", "agent_revoked")
}

// A renewal that does not come about, because the server is gone, is counted by
// the agent; and so is that there is no link.
func TestMetricsOfAnAgentAlone(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t, shortLived)
	a := cp.StartAgent("a", func(c *agent.Config) { c.MetricsAddr = testkit.FreePort(t) })
	if err := cp.Stop(); err != nil {
		t.Fatal(err)
	}
	var f families
	testkit.Eventually(t, 30*time.Second, "a renewal that fails, without a link", func() (bool, string) {
		f = scrape(t, a.Config.MetricsAddr)
		return f.value(metrics.AgentCertificateRenewal, "status", "failure") > 0 && f.value(metrics.AgentConnected) == 0, fmt.Sprint(f[metrics.AgentCertificateRenewal], f[metrics.AgentConnected])
	})
	if f.value(metrics.AgentCertificateRenewed, "status", "failure") == 0 {
		t.Error("it does not say when")
	}
	cp.Start()
	testkit.Eventually(t, 30*time.Second, "the renewal, when the server is back", func() (bool, string) {
		f = scrape(t, a.Config.MetricsAddr)
		return f.value(metrics.AgentCertificateRenewal, "status", "success") > 0 && f.value(metrics.AgentConnected) == 1, fmt.Sprint(f[metrics.AgentCertificateRenewal], f[metrics.AgentConnected])
	})
}

// The fleet's certificates, those of the authority, and who has followed its
// rotation.
func TestMetricsOfTheFleet(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	cp := measuredServer(t, func(c *server.Config) { c.AgentCertLife, c.AgentCertLifeMax = 20*day, 90*day })
	soon, ended := newHandmade(t, cp, "soon"), newHandmade(t, cp, "ended")
	newHandmade(t, cp, "far")
	db := database(t, cp)
	for id, ends := range map[string]time.Time{soon.id: time.Now().Add(30 * time.Minute), ended.id: time.Now().Add(-time.Minute)} {
		if _, err := db.ExecContext(t.Context(), "UPDATE agents SET certificate_not_after = ? WHERE id = ?", ends.UnixMicro(), id); err != nil {
			t.Fatal(err)
		}
	}
	f := scrape(t, cp.Config().MetricsAddr) // the first one, which counts
	for _, c := range []struct {
		want   float64
		name   string
		labels []string
	}{
		{3, metrics.Agents, []string{"liveness", "live"}},
		{0, metrics.Agents, []string{"liveness", "dead"}},
		{1, metrics.AgentsCertificateEnded, []string{"liveness", "live"}},
		{0, metrics.AgentsCertificateEnded, []string{"liveness", "stale"}},
		{1, metrics.AgentsCertificateEnding, []string{"liveness", "live", "within", "1h"}},
		{1, metrics.AgentsCertificateEnding, []string{"liveness", "live", "within", "1d"}},
		{1, metrics.AgentsCertificateEnding, []string{"liveness", "live", "within", "7d"}},
		{2, metrics.AgentsCertificateEnding, []string{"liveness", "live", "within", "30d"}},
		{3, metrics.AgentsTrust, []string{"liveness", "live", "trust", "current"}},
		{0, metrics.AgentsTrust, []string{"liveness", "live", "trust", "outdated"}},
	} {
		if got := f.value(c.name, c.labels...); got != c.want {
			t.Errorf("%s %q: %v, want %v", c.name, c.labels, got, c.want)
		}
	}

	conn, err := tls.Dial("tcp", cp.Listen, tlsConfig(cp))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	chain := conn.ConnectionState().PeerCertificates
	if len(chain) != 3 {
		t.Fatalf("the server shows %d certificates", len(chain))
	}
	for i, which := range []string{"server", "intermediate", "root"} {
		if got, want := f.value(metrics.AuthorityExpiry, "certificate", which), float64(chain[i].NotAfter.Unix()); got != want {
			t.Errorf("the end of the %s: %v, want %v", which, got, want)
		}
	}

	// After a step of a rotation, nobody has followed.
	if _, err := cp.Client.PrepareCA(t.Context()); err != nil {
		t.Fatal(err)
	}
	f = scrape(t, cp.Config().MetricsAddr)
	if current, outdated := f.value(metrics.AgentsTrust, "trust", "current", "liveness", "live"), f.value(metrics.AgentsTrust, "trust", "outdated", "liveness", "live"); current != 0 || outdated != 3 {
		t.Errorf("%v have followed, and %v have not", current, outdated)
	}
}

// Whom the limits turn away is counted.
func TestMetricsOfLimits(t *testing.T) {
	t.Parallel()
	cp := measuredServer(t, func(c *server.Config) {
		c.RefusedPerMinute, c.RefusedBurst, c.AnonymousRate, c.AnonymousBurst = 1, 1, 1, 3
	})
	stranger := httpClient(tlsConfig(cp))
	status := map[int]int{}
	for range 3 {
		got, _ := call(t, stranger, http.MethodGet, cp.URL+"/api/v1/whoami", map[string]string{"Authorization": "Bearer stl_bad"}, nil)
		status[got]++
	}
	if status[401] != 1 || status[429] != 2 {
		t.Fatalf("%v", status)
	}
	over := 0
	for range 20 {
		if got, _ := call(t, stranger, http.MethodGet, cp.URL+"/healthz", nil, nil); got == http.StatusTooManyRequests {
			over++
		}
	}
	// One who speaks no TLS.
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+cp.Listen+"/", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	if res, err := (&http.Client{Transport: &http.Transport{}}).Do(req); err == nil {
		_ = res.Body.Close()
	}
	testkit.Eventually(t, 20*time.Second, "all to be counted", func() (bool, string) {
		f := scrape(t, cp.Config().MetricsAddr)
		refused, anonymous, failed := f.value(metrics.RequestsLimited, "limit", "refused"), f.value(metrics.RequestsLimited, "limit", "anonymous"), f.value(metrics.HandshakesFailed)
		return refused == 2 && anonymous == float64(over) && over > 0 && failed >= 1, fmt.Sprintf("%v refused, %v of %d anonymous, %v handshakes", refused, anonymous, over, failed)
	})
}

// A server that cannot have the address that it was told does not start; an agent
// works without.
func TestMetricsAddressIsTaken(t *testing.T) {
	t.Parallel()
	cp := measuredServer(t)
	taken := cp.Config().MetricsAddr
	cfg := testkit.ServerConfig(t.TempDir())
	cfg.MetricsAddr = taken
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s := &server.Server{Config: cfg, Log: testkit.Logger(t, "second"), Out: io.Discard}
	if err := s.Run(ctx); err == nil || !strings.Contains(err.Error(), "metrics-addr: ") || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a second server: %v", err)
	}
	cp.StartAgent("a", func(c *agent.Config) { c.MetricsAddr = taken })
	public := &agent.Agent{Config: agent.Config{Data: t.TempDir(), Transport: "auto", MaxConcurrentTasks: 1, ReconnectBackoff: 1, PollInterval: 1, MetricsAddr: "0.0.0.0:1"}, Log: testkit.Logger(t, "public")}
	if err := public.Run(ctx); err == nil || !strings.Contains(err.Error(), "metrics-addr: ") {
		t.Errorf("an agent that would tell the world: %v", err)
	}
}

// usedToken is a token that has registered an agent.
func usedToken(t *testing.T, cp *testkit.ControlPlane) string {
	t.Helper()
	token := cp.Token()
	registered(t, cp, token, api.RegisterRequest{Name: fmt.Sprintf("used-%d", time.Now().UnixNano())})
	return token
}
