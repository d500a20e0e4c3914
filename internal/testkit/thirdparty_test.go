package testkit_test

import (
	"bufio"
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
	"stella-ops.org/stella/internal/testkit"
)

// Agents of other makers, each with the library of its own choice, do all that
// an agent does. They are a module of their own, which is built here.
func TestAgentsOfOtherMakers(t *testing.T) {
	t.Parallel()
	bin := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", bin, "./wsagent", "./grpcagent")
	build.Dir = "thirdparty"
	build.Env = append(os.Environ(), "GOFLAGS=-mod=readonly", "GOWORK=off", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the agents: %v\n%s", err, out)
	}
	for program, carrier := range map[string]struct{ transport, revoked string }{
		"wsagent":   {"websocket", "closed 4403 agent_revoked: agent web is revoked"},
		"grpcagent": {"grpc", "closed PermissionDenied agent_revoked agent web is revoked"},
	} {
		t.Run(program, func(t *testing.T) {
			t.Parallel()
			cp := testkit.StartServer(t)
			h := newHandmade(t, cp, "web", "host.execute")
			_, err := cp.Client.CreateTarget(t.Context(), api.TargetRequest{
				Name: "box", Kind: "host", Agent: h.id, Config: api.TargetConfig{Directory: t.TempDir()},
			})
			if err != nil {
				t.Fatal(err)
			}
			f := startForeign(t, filepath.Join(bin, program), h)
			f.until("welcome")
			f.until("heartbeat_ack")
			if a, err := cp.Client.Agent(t.Context(), h.id); err != nil || a.Transport != carrier.transport || a.Status != api.StatusOnline {
				t.Errorf("%+v, %v", a, err)
			}
			f.runsATask()
			f.stopsATask()
			f.takesACommand(program)
			if _, err := cp.Client.RevokeAgent(t.Context(), h.id); err != nil {
				t.Fatal(err)
			}
			f.until(carrier.revoked)
			if <-f.ended; f.err != nil {
				t.Errorf("%s: %v", program, f.err)
			}
		})
	}
}

// foreign is a program that is an agent, and what it prints.
type foreign struct {
	*handmade
	t     *testing.T
	lines chan string
	ended chan struct{}
	err   error // how it ended
}

func startForeign(t *testing.T, program string, h *handmade) *foreign {
	t.Helper()
	dir := t.TempDir()
	key, err := x509.MarshalPKCS8PrivateKey(h.key)
	if err != nil {
		t.Fatal(err)
	}
	var chain []byte
	for _, der := range h.cert.Certificate {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	for name, data := range map[string][]byte{"ca.pem": h.cp.CA, "cert.pem": chain, "key.pem": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), program, "-server", h.cp.URL, "-agent", h.id)
	cmd.Dir = dir
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	cmd.WaitDelay = linkPatience
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	f := &foreign{handmade: h, t: t, lines: make(chan string, 1000), ended: make(chan struct{})}
	go func() {
		defer close(f.ended)
		for s := bufio.NewScanner(out); s.Scan(); {
			f.lines <- s.Text()
		}
		close(f.lines)
		f.err = cmd.Wait()
	}()
	t.Cleanup(func() {
		<-f.ended // by the end of the test's context, if not before
		if complaints.Len() > 0 {
			t.Errorf("it complains: %s", complaints.String())
		}
	})
	return f
}

// until waits for a line that begins as wanted, and returns it.
func (f *foreign) until(want ...string) string {
	f.t.Helper()
	begin := strings.Join(want, " ")
	patience := time.After(linkPatience)
	for {
		select {
		case line, ok := <-f.lines:
			if !ok {
				f.t.Fatalf("it has ended, and has not said %q", begin)
			}
			f.t.Log(line)
			if strings.HasPrefix(line, begin) {
				return line
			}
		case <-patience:
			f.t.Fatalf("it does not say %q", begin)
		}
	}
}

func (f *foreign) submit(command string) string {
	f.t.Helper()
	k, err := f.cp.Client.SubmitTask(f.t.Context(), api.TaskRequest{
		Type: api.TaskExecuteCommand, Target: "box", Payload: json.RawMessage(`{"command":["` + command + `"]}`),
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return k.ID
}

func (f *foreign) runsATask() {
	f.t.Helper()
	id := f.submit("uptime")
	f.until("task_assigned", id)
	f.until("log_ack", id, "2")
	f.until("result_ack", id, "true")
	k := f.cp.WaitTask(id, linkPatience)
	if k.State != api.TaskSucceeded || k.StartedAt == nil || k.Result.Outputs["exitCode"] != float64(0) {
		f.t.Errorf("%s %+v", k.State, k.Result)
	}
	logs, err := f.cp.Client.TaskLogs(f.t.Context(), id)
	if err != nil || len(logs.Entries) != 2 || !strings.HasSuffix(logs.Entries[0].Text, "runs uptime") || logs.Entries[1].Stream != "stderr" {
		f.t.Errorf("log: %+v, %v", logs, err)
	}
}

// stopsATask also has the agent name the task in heartbeats for a while.
func (f *foreign) stopsATask() {
	f.t.Helper()
	id := f.submit("wait")
	f.until("task_assigned", id)
	f.until("log_ack", id)
	f.until("heartbeat_ack")
	if k, err := f.cp.Client.CancelTask(f.t.Context(), id); err != nil || k.State != api.TaskRunning {
		f.t.Fatalf("%+v, %v", k, err)
	}
	f.until("task_cancelled", id)
	f.until("result_ack", id, "true")
	if k := f.cp.WaitTask(id, linkPatience); k.State != api.TaskCancelled {
		f.t.Errorf("%s %s", k.State, k.Reason)
	}
}

func (f *foreign) takesACommand(by string) {
	f.t.Helper()
	c, err := f.cp.Client.SendCommand(f.t.Context(), f.id, api.CommandRequest{Type: "deep-trace", Payload: json.RawMessage(`{"route":7}`)})
	if err != nil {
		f.t.Fatal(err)
	}
	f.until("command", c.ID, "deep-trace", `{"route":7}`)
	f.until("command_receipt", c.ID, "true")
	p, err := f.cp.Client.Command(f.t.Context(), c.ID, client.DeliveryFilter{})
	if err != nil || !p.Done || len(p.Deliveries) != 1 || p.Deliveries[0].State != api.CommandAcknowledged || string(p.Deliveries[0].Result) != `{"by":"`+by+`"}` {
		f.t.Errorf("%+v, %v", p, err)
	}
}
