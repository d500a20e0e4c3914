package testkit_test

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/seal"
)

// updateVectors writes docs/sealed-task.json anew, with new keys.
var updateVectors = flag.Bool("update-vectors", false, "write docs/sealed-task.json anew")

const vectorsFile = "../../docs/sealed-task.json"

// vector is one task as it goes to an agent, with all that it takes to open it.
type vector struct {
	KEM             string `json:"kem"`
	AgentID         string `json:"agentId"`
	PrivateKey      []byte `json:"privateKey"`
	PublicKey       string `json:"publicKey"`
	KeyID           string `json:"keyId"`
	ServerPublicKey string `json:"serverPublicKey"`
	// Task is the very text.
	Task      string `json:"task"`
	Signature []byte `json:"signature"`
	Info      string `json:"info"` // in hex
	Opened    string `json:"opened"`
}

func readVectors(t *testing.T) (all []vector) {
	t.Helper()
	data, err := os.ReadFile(vectorsFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &all); err != nil || len(all) != 2 {
		t.Fatalf("%d vectors, %v", len(all), err)
	}
	return all
}

// What docs/sealed-task.json says is what our own code says.
func TestSealedTaskVectors(t *testing.T) {
	t.Parallel()
	if *updateVectors {
		writeVectors(t)
	}
	for _, v := range readVectors(t) {
		parse := map[string]func([]byte) (*seal.PrivateKey, error){"MLKEM768-X25519": seal.ParsePrivateKey, "X25519": seal.ParseX25519PrivateKey}[v.KEM]
		key, err := parse(v.PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		if key.Public().Text() != v.PublicKey || key.Public().ID() != v.KeyID || seal.CheckPublicKey(v.PublicKey) != nil {
			t.Errorf("%s: its public key is %s, id %s", v.KEM, key.Public().Text(), key.Public().ID())
		}
		h := &handmade{id: v.AgentID, server: v.ServerPublicKey}
		k := h.signedTask(t, []byte(v.Task), v.Signature)
		info := api.SealInfo(api.PurposeTask, k.ID, k.Attempt, k.AgentID)
		if hex.EncodeToString(info) != v.Info || k.Sealed.KeyID != v.KeyID {
			t.Errorf("%s: info %x, key %s", v.KEM, info, k.Sealed.KeyID)
		}
		if plain, err := key.Open(info, k.Sealed.Data); err != nil || string(plain) != v.Opened {
			t.Errorf("%s: %q, %v", v.KEM, plain, err)
		}
	}
}

// The program in docs/protocol.md opens them, and refuses what was altered.
func TestSealedTaskProgram(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	_, code, ok := strings.Cut(string(page), "```go\n")
	code, _, end := strings.Cut(code, "```\n")
	if !ok || !end {
		t.Fatal("the page has no program")
	}
	dir := t.TempDir()
	for name, text := range map[string]string{"main.go": code, "go.mod": "module agent\n\ngo 1.26\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(file string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "go", "run", ".", file)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=mod")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	path, err := filepath.Abs(vectorsFile)
	if err != nil {
		t.Fatal(err)
	}
	vectors := readVectors(t)
	want := vectors[0].Opened + "\n" + vectors[1].Opened + "\n"
	if got, err := run(path); err != nil || got != want {
		t.Errorf("%v: %s, want %s", err, got, want)
	}
	vectors[0].Task = strings.Replace(vectors[0].Task, `"attempt":1`, `"attempt":2`, 1)
	data, err := json.Marshal(vectors)
	if err != nil {
		t.Fatal(err)
	}
	altered := filepath.Join(dir, "altered.json")
	if err := os.WriteFile(altered, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := run(altered); err == nil || !strings.Contains(got, "the server has not signed this") {
		t.Errorf("altered: %v %s", err, got)
	}
}

func writeVectors(t *testing.T) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var all []vector
	for _, kem := range []string{"X25519", "MLKEM768-X25519"} {
		key := newPrivateKey(t)
		raw, err := key.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		if kem == "X25519" {
			made, err := ecdh.X25519().GenerateKey(rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			raw = made.Bytes()
			if key, err = seal.ParseX25519PrivateKey(raw); err != nil {
				t.Fatal(err)
			}
		}
		v := vector{KEM: kem, AgentID: "0198e2a0-0000-7000-8000-00000000a9e7", PrivateKey: raw, PublicKey: key.Public().Text(), KeyID: key.Public().ID()}
		v.Opened = `{"payload":{"command":["uptime"],"environment":{"TOKEN":"secret://token"}},"credentials":{"secrets":{"token":"of no value"}}}`
		at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
		k := api.AgentTask{
			ID: "0198e2a0-1111-7000-8000-00000000007a", AgentID: v.AgentID, Attempt: 1, Type: api.TaskExecuteCommand, TargetID: "0198e2a0-2222-7000-8000-00000000007b",
			Target: api.AgentTarget{Name: "box", Kind: "host"}, Timeout: 60, Priority: api.PriorityNormal, AssignedAt: at, ExpiresAt: at.Add(16 * time.Minute),
		}
		info := api.SealInfo(api.PurposeTask, k.ID, k.Attempt, k.AgentID)
		data, err := key.Public().Seal(info, []byte(v.Opened))
		if err != nil {
			t.Fatal(err)
		}
		k.Sealed = &api.Sealed{KeyID: v.KeyID, Data: data}
		task, err := json.Marshal(k)
		if err != nil {
			t.Fatal(err)
		}
		v.Task, v.Info = string(task), hex.EncodeToString(info)
		v.Signature = seal.NewSigner(private).Sign(api.PurposeTask, task)
		v.ServerPublicKey = base64.StdEncoding.EncodeToString(public)
		all = append(all, v)
	}
	out, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(vectorsFile, append(out, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}
