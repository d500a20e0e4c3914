package agent

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/seal"
)

func TestBackoff(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		base := time.Duration(rapid.Int64Range(1, int64(5*time.Minute)).Draw(t, "base"))
		failures := rapid.IntRange(0, 1_000_000).Draw(t, "failures")
		window := time.Duration(rapid.Int64Range(0, int64(2*time.Minute)).Draw(t, "window"))
		wait, most := backoff(base, failures, window), max(time.Minute, base, window)
		if wait < 0 || wait > most {
			t.Fatalf("backoff(%s, %d) = %s", base, failures, wait)
		}
		if failures == 0 && wait > max(base, window) {
			t.Fatalf("the first wait is %s, longer than %s", wait, base)
		}
		if wait < max(min(base, time.Minute), window)/10 {
			t.Fatalf("backoff(%s, %d) = %s hurries", base, failures, wait)
		}
	})
	// Jittered over its whole length, so that a fleet does not come back as one.
	early, late := 0, 0
	for range 1000 {
		switch w := backoff(10*time.Second, 0, 0); {
		case w < 4*time.Second:
			early++
		case w > 7*time.Second:
			late++
		}
	}
	if early < 100 || late < 100 {
		t.Errorf("of 1000 waits of up to 10 s, %d are below 4 s and %d above 7 s", early, late)
	}
}

func TestOverLimit(t *testing.T) {
	t.Parallel()
	u := &api.ResourceUsage{CPUPercent: 80, MemoryPercent: 50.4, DiskPercent: 95}
	for _, c := range []struct {
		cfg  Config
		says string // empty: there is room
	}{
		{Config{}, ""},
		{Config{CPUPercent: 80, MemoryPercent: 51, DiskPercent: 100}, ""},
		{Config{CPUPercent: 79}, "cpu"},
		{Config{MemoryPercent: 50}, "memory"},
		{Config{DiskPercent: 90}, "disk"},
		{Config{CPUPercent: 1, DiskPercent: 1}, "cpu"},
	} {
		got := overLimit(&c.cfg, u)
		if (got == "") != (c.says == "") || !strings.HasPrefix(got, c.says) {
			t.Errorf("%+v: %q", c.cfg, got)
		}
	}
}

func TestWhatIsMasked(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"DB_PASSWORD": true, "db_password": true, "API_TOKEN": true, "AWS_SECRET_ACCESS_KEY": true, "DATABASE_URL": true, "SENTRY_DSN": true,
		"CONNECTION_STRING": true, "SESSION_COOKIE": true, "PORT": false, "ENVIRONMENT": false, "LOG_LEVEL": false, "URL": false,
	} {
		if got := secretName(name); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	for value, want := range map[string]bool{
		"postgres://app:pw@db/app": true, "https://user@example.com": true, "https://example.com/path": false, "ghp_0123456789abcdef": true,
		"production": false, "8080": false, "a sentence with 1 number in it": false, "/usr/local/lib/python3": false, "onlylettersandnothingelse": false, "": false,
	} {
		if got := looksSecret(value); got != want {
			t.Errorf("%q: %v, want %v", value, got, want)
		}
	}
}

func TestSecretsOfATask(t *testing.T) {
	t.Parallel()
	task := &api.AgentTask{
		Token:       "the token of the task",
		Credentials: &api.Credentials{Registry: &api.RegistryAuth{Username: "user", Password: "registry password", Token: "registry token"}},
		Payload: []byte(`{"environment":{"API_KEY":"s-command","MODE":"fast"},"config":{"environment":{"DB_PASSWORD":"s-config"}},
			"hooks":{"preDeploy":{"command":["x"],"environment":{"A_SECRET":"s-pre"}},"postDeploy":{"command":["x"],"environment":{"B_TOKEN":"s-post"}}},
			"deploy":{"config":{"environment":{"DB_PASSWORD":"s-old"}},"hooks":{"preDeploy":{"command":["x"],"environment":{"C_AUTH":"s-oldhook"}}}}}`),
	}
	masked := seal.NewMasker(secretsOf(task)...).Mask("the token of the task, registry password, registry token, s-command, s-config, s-pre, s-post, s-old, s-oldhook, fast, user")
	if want := strings.Repeat("***, ", 9) + "fast, user"; masked != want {
		t.Errorf("%s, want %s", masked, want)
	}
	task.Payload = []byte("no json")
	if got := secretsOf(task); len(got) != 2 {
		t.Errorf("with a payload that does not parse: %q", got)
	}
}

func TestMaskValue(t *testing.T) {
	t.Parallel()
	in := map[string]any{
		"text": "secret!", "list": []string{"a", "secret"}, "any": []any{"secret", 1, map[string]any{"deep": "secret"}},
		"labels": map[string]string{"stella.env": "secret"}, "number": 7, "none": nil,
	}
	want := map[string]any{
		"text": "***!", "list": []string{"a", "***"}, "any": []any{"***", 1, map[string]any{"deep": "***"}},
		"labels": map[string]string{"stella.env": "***"}, "number": 7, "none": nil,
	}
	if diff := cmp.Diff(want, maskValue(seal.NewMasker("secret"), in)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
