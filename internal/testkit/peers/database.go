package peers

import (
	"context"
	"fmt"
	"net/url"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// Database makes an empty PostgreSQL database for a test and returns its URL.
// It is dropped when the test ends.
func Database(t testing.TB) string {
	t.Helper()
	admin := Postgres(t)
	u, err := url.Parse(admin)
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("e2e_%d", time.Now().UnixNano())
	statement := func(ctx context.Context, sql string) {
		out, err := exec.CommandContext(ctx, "psql", admin, "-v", "ON_ERROR_STOP=1", "-qc", sql).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v: %s", sql, err, strings.TrimSpace(string(out)))
		}
	}
	statement(t.Context(), "CREATE DATABASE "+name+" TEMPLATE template0")
	t.Cleanup(func() { statement(context.WithoutCancel(t.Context()), "DROP DATABASE "+name+" WITH (FORCE)") })
	u.Path = "/" + name
	return u.String()
}
