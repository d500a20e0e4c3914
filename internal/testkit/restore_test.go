package testkit_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
	"stella-ops.org/stella/internal/pki"
	"stella-ops.org/stella/internal/server"
	"stella-ops.org/stella/internal/testkit"
)

func writeFile(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// backup copies files of a stopped server's data folder, and returns what puts
// them back as they were.
func backup(t *testing.T, cp *testkit.ControlPlane, names ...string) (restore func()) {
	t.Helper()
	kept := map[string][]byte{}
	for _, name := range names {
		if data, err := os.ReadFile(filepath.Join(cp.Data, name)); err == nil {
			kept[name] = data
		} else if !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	return func() {
		t.Helper()
		for _, name := range names {
			path := filepath.Join(cp.Data, name)
			if data, ok := kept[name]; ok {
				writeFile(t, path, string(data))
			} else if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
		}
	}
}

var (
	databaseFiles = []string{"stella.db", "stella.db-wal", "stella.db-shm"}
	recordFile    = "revoked.jsonl"
)

// renewNow has an agent renew by hand of its server, and returns its next
// credential, which it uses already.
func renewNow(t *testing.T, cp *testkit.ControlPlane, a *testkit.Agent) string {
	t.Helper()
	before := credential(t, a)
	issued := keyPair(t, before).Leaf.NotBefore
	testkit.Eventually(t, 10*time.Second, "the second to be another, which is how exact certificates are", func() (bool, string) {
		return time.Since(issued) > time.Minute+1100*time.Millisecond, time.Since(issued).String()
	})
	if _, err := cp.Client.SendCommand(t.Context(), a.Config.Name, api.CommandRequest{Type: "renew-certificate", Payload: json.RawMessage(`{"force":true}`)}); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 20*time.Second, "the renewed certificate to be used", func() (bool, string) {
		shown, err := cp.Client.Agent(t.Context(), a.Config.Name)
		if err != nil {
			return false, err.Error()
		}
		now := credential(t, a)
		return now != before && shown.CertificateFingerprint == fingerprintOf(t, now), shown.CertificateFingerprint
	})
	return credential(t, a)
}

func fingerprintOf(t *testing.T, credential string) string {
	t.Helper()
	return pki.Fingerprint(keyPair(t, credential).Leaf.Raw)
}

// did counts lines of the audit log.
func did(t *testing.T, cp *testkit.ControlPlane, filter string) (n int) {
	t.Helper()
	for _, err := range cp.Client.Audit(t.Context(), client.AuditFilter{Filter: filter}) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	return n
}

func stop(t *testing.T, cp *testkit.ControlPlane) {
	t.Helper()
	if err := cp.Stop(); err != nil {
		t.Fatal(err)
	}
}

// A database from a backup brings back nobody who was revoked since, and locks
// out nobody who has renewed since.
func TestOldDatabaseIsPutBack(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	renewed, thief, sleeper := cp.StartAgent("renewed"), cp.StartAgent("thief"), cp.StartAgent("sleeper")
	revoked, deleted := newHandmade(t, cp, "revoked"), newHandmade(t, cp, "deleted")
	first := map[*testkit.Agent]string{renewed: credential(t, renewed), thief: credential(t, thief), sleeper: credential(t, sleeper)}
	stop(t, cp)
	restore := backup(t, cp, databaseFiles...)
	cp.Start()

	second := renewNow(t, cp, renewed)
	stolen := renewNow(t, cp, thief) // of a time that the backup does not know
	if _, err := cp.Client.RevokeAgent(t.Context(), "thief"); err != nil {
		t.Fatal(err)
	}
	if _, err := cp.Client.RevokeAgent(t.Context(), "revoked"); err != nil {
		t.Fatal(err)
	}
	if err := cp.Client.DeleteAgent(t.Context(), "deleted"); err != nil {
		t.Fatal(err)
	}
	// Replaced by its own renewal, and written down some seconds later.
	path := filepath.Join(cp.Data, recordFile)
	serial := keyPair(t, first[renewed]).Leaf.SerialNumber.Text(16)
	testkit.Eventually(t, 10*time.Second, "the replaced certificate to be on the record", func() (bool, string) {
		data, err := os.ReadFile(path)
		return err == nil && strings.Contains(string(data), serial), string(data)
	})
	third := renewNow(t, cp, renewed)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the record: %v, %v", info, err)
	}
	testkit.Eventually(t, 10*time.Second, "the one in between, too", func() (bool, string) {
		data, err := os.ReadFile(path)
		return err == nil && strings.Contains(string(data), keyPair(t, second).Leaf.SerialNumber.Text(16)), string(data)
	})
	stop(t, cp)
	restore()
	cp.Start()

	refusedWith(t, cp, stolen, "agent_revoked")
	refusedWith(t, cp, second, "certificate_revoked") // it was replaced
	for _, h := range []*handmade{revoked, deleted} {
		if status, body := h.beat(t, httpClient(tlsConfig(cp, h.cert))); status != http.StatusForbidden {
			t.Errorf("who was revoked is back: %d %s", status, body)
		}
	}
	testkit.Eventually(t, 20*time.Second, "the agent that had renewed to be back", func() (bool, string) {
		shown, err := cp.Client.Agent(t.Context(), "renewed")
		if err != nil {
			return false, err.Error()
		}
		return shown.CertificateFingerprint == fingerprintOf(t, credential(t, renewed)), fmt.Sprintf("%+v", shown)
	})
	refusedWith(t, cp, first[renewed], "certificate_revoked")
	cp.WaitOnline("sleeper") // whom nothing of this concerns
	for name, want := range map[string]api.Lifecycle{"thief": api.LifecycleRevoked, "revoked": api.LifecycleRevoked, "deleted": api.LifecycleRevoked, "renewed": api.LifecycleActive, "sleeper": api.LifecycleActive} {
		if shown, err := cp.Client.Agent(t.Context(), name); err != nil || shown.Lifecycle != want {
			t.Errorf("%s: %+v, %v", name, shown, err)
		}
	}
	const again = `action=agent.revoke and actor=system`
	if n, m := did(t, cp, again), did(t, cp, `action=agent.adopt`); n != 3 || m != 1 {
		t.Errorf("the audit log has %d revocations that were done again and %d adoptions, want 3 and 1", n, m)
	}
	if third == second {
		t.Error("it did not renew a second time")
	}
	// It is done once.
	stop(t, cp)
	cp.Start()
	cp.WaitOnline("renewed")
	if n := did(t, cp, again); n != 3 {
		t.Errorf("after another start, %d", n)
	}
	refusedWith(t, cp, stolen, "agent_revoked")
}

// Without the record, too, a certificate that a newer one has replaced is not
// taken once the newer one was.
func TestOldDatabaseWithoutTheRecord(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	a := cp.StartAgent("a")
	stop(t, cp)
	restore := backup(t, cp, append(databaseFiles, recordFile)...)
	cp.Start()
	second := renewNow(t, cp, a)
	third := renewNow(t, cp, a)
	if err := a.Stop(); err != nil { // or it might show both
		t.Fatal(err)
	}
	stop(t, cp)
	restore()
	cp.Start()
	a.Start("")
	testkit.Eventually(t, 20*time.Second, "the agent to be back", func() (bool, string) {
		shown, err := cp.Client.Agent(t.Context(), "a")
		return err == nil && shown.CertificateFingerprint == fingerprintOf(t, credential(t, a)), fmt.Sprint(shown, err)
	})
	if third == second {
		t.Fatal("it did not renew twice")
	}
	refusedWith(t, cp, second, "certificate_revoked")
}

// When all of the data folder is old, only a list that was kept elsewhere knows
// what was revoked since.
func TestOldFolderIsPutBack(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	revoked, bystander := newHandmade(t, cp, "revoked"), newHandmade(t, cp, "bystander")
	renewed := cp.StartAgent("renewed")
	stop(t, cp)
	restore := backup(t, cp, append(databaseFiles, recordFile)...)
	cp.Start()
	stolen := renewNow(t, cp, renewed)
	for _, name := range []string{"revoked", "renewed"} {
		if _, err := cp.Client.RevokeAgent(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	if err := renewed.Stop(); err != nil { // it is told that it was revoked
		t.Log(err)
	}
	_, list := call(t, httpClient(tlsConfig(cp)), http.MethodGet, cp.URL+"/pki/crl", nil, nil)
	crl := filepath.Join(t.TempDir(), "crl")
	writeFile(t, crl, string(list))
	stop(t, cp)
	restore()

	check := func(path string) (string, error) {
		var out bytes.Buffer
		err := (&server.RestoreCheck{Config: cp.Config(), CRL: path, Log: testkit.Logger(t, "restore-check"), Out: &out}).Run(t.Context())
		return out.String(), err
	}
	strange := filepath.Join(t.TempDir(), "strange")
	writeFile(t, strange, "nothing of the kind")
	if out, err := check(strange); err == nil || !strings.Contains(err.Error(), "no list of revoked certificates") {
		t.Errorf("a file that is no list: %s %v", out, err)
	}
	other := testkit.StartServer(t)
	_, theirs := call(t, httpClient(tlsConfig(other)), http.MethodGet, other.URL+"/pki/crl", nil, nil)
	writeFile(t, strange, string(theirs))
	if out, err := check(strange); err == nil || !strings.Contains(err.Error(), "has signed it") {
		t.Errorf("another installation's list: %s %v", out, err)
	}
	out, err := check(crl)
	if err != nil || !strings.Contains(out, "revoked") || !strings.Contains(out, "Revoked again") {
		t.Errorf("%s %v", out, err)
	}
	if out, err := check(crl); err != nil || !strings.Contains(out, "nothing to do") {
		t.Errorf("again: %s %v", out, err)
	}
	cp.Start()
	for _, h := range []*handmade{revoked, bystander} {
		status, body := h.beat(t, httpClient(tlsConfig(cp, h.cert)))
		if want := map[*handmade]int{revoked: http.StatusForbidden, bystander: http.StatusOK}[h]; status != want {
			t.Errorf("%d %s, want %d", status, body, want)
		}
	}
	cert := keyPair(t, stolen)
	if status, body := call(t, httpClient(tlsConfig(cp, cert)), http.MethodPost, cp.URL+"/api/v1/agents/"+cert.Leaf.Subject.CommonName+"/heartbeat", nil, "{}"); status != http.StatusForbidden {
		t.Errorf("a certificate from after the backup, which was revoked: %d %s", status, body)
	}
	if n := did(t, cp, `action=agent.revoke and actor=system`); n == 0 {
		t.Error("the audit log does not have it")
	}
}

// A record that is damaged keeps the server from starting, and says where; one
// whose last line was cut off does not.
func TestRecordThatIsDamaged(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	h := newHandmade(t, cp, "web")
	if _, err := cp.Client.RevokeAgent(t.Context(), h.id); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(cp.Data, recordFile)
	data, err := os.ReadFile(path)
	if err != nil || !bytes.Contains(data, []byte(h.id)) {
		t.Fatalf("when the revocation was answered, the record had %q, %v", data, err)
	}
	stop(t, cp)
	writeFile(t, path, string(data)+`{"serial":"12`)
	cp.Start()
	if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, data) {
		t.Errorf("%q, %v", now, err)
	}
	stop(t, cp)
	writeFile(t, path, "what is this?\n"+string(data))
	s := &server.Server{Config: cp.Config(), Log: testkit.Logger(t, "server"), Out: &bytes.Buffer{}}
	if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "line 1") || !strings.Contains(err.Error(), path) {
		t.Errorf("%v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	cp.Start() // it makes a new one of what the database knows
	if now, err := os.ReadFile(path); err != nil || !bytes.Contains(now, []byte(h.id)) {
		t.Errorf("%q, %v", now, err)
	}
}
