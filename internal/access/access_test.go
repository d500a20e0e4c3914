package access_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/access"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/store/sqlite"
)

func TestRoles(t *testing.T) {
	t.Parallel()
	order := []api.Role{"", api.RoleViewer, api.RoleOperator, api.RoleAdmin}
	for have, role := range order {
		p := access.Principal{Role: role}
		for want, other := range order {
			if got := p.May(other); got != (want > 0 && have >= want) {
				t.Errorf("%q may what %q may: %v", role, other, got)
			}
		}
		if p.May("root") {
			t.Errorf("%q may what nobody knows", role)
		}
	}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	st, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "stella.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	s := access.NewService(st, func() time.Time { return now })
	first, err := s.First(t.Context())
	if err != nil || !strings.HasPrefix(first, "stl_") {
		t.Fatalf("the first token: %q, %v", first, err)
	}
	if again, err := s.First(t.Context()); err != nil || again != "" {
		t.Errorf("there are two first tokens: %q, %v", again, err)
	}
	if p, err := s.Authenticate(t.Context(), first); err != nil || p.Role != api.RoleAdmin || p.TenantID != access.DefaultTenant {
		t.Errorf("%+v, %v", p, err)
	}
	tok, text, err := s.Create(t.Context(), "default", "admin", "ci", api.RoleOperator, time.Hour)
	if err != nil || strings.Contains(tok.Hash, text) {
		t.Fatalf("%+v, %v", tok, err)
	}
	p, err := s.Authenticate(t.Context(), text)
	if err != nil || p.Name != "ci" || p.Role != api.RoleOperator || p.Actor() != "token:"+tok.ID+" (ci)" {
		t.Errorf("%+v, %v", p, err)
	}
	refused := func(what, text string) {
		t.Helper()
		if p, err := s.Authenticate(t.Context(), text); fault.KindOf(err) != fault.Unauthenticated || fault.CodeOf(err) != "unauthenticated" {
			t.Errorf("%s: %+v, %v", what, p, err)
		}
	}
	refused("nothing", "")
	other := "x"
	if strings.HasSuffix(text, other) {
		other = "y"
	}
	refused("another token", text[:len(text)-1]+other)
	refused("its hash", tok.Hash)
	_, short, err := s.Create(t.Context(), "default", "admin", "short", api.RoleViewer, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Revoke(t.Context(), "another tenant", tok.ID); fault.KindOf(err) != fault.NotFound {
		t.Errorf("another tenant revokes it: %v", err)
	}
	if err := s.Revoke(t.Context(), "default", tok.ID); err != nil {
		t.Fatal(err)
	}
	refused("revoked", text)
	now = now.Add(time.Hour)
	refused("expired", short)
	if _, err := s.Authenticate(t.Context(), first); err != nil {
		t.Errorf("one without an end has ended: %v", err)
	}
	for what, err := range map[string]error{
		"no role": third(s.Create(t.Context(), "default", "x", "n", "root", 0)),
		"no name": third(s.Create(t.Context(), "default", "x", "  ", api.RoleViewer, 0)),
	} {
		if fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: %v", what, err)
		}
	}
	// Its last use is noted, for people who clean up.
	all, err := s.List(t.Context(), "default", access.Filter{})
	if err != nil || len(all) != 3 {
		t.Fatalf("%d tokens, %v", len(all), err)
	}
	for _, x := range all {
		if used := !x.LastUsedAt.IsZero(); used != (x.Name != "short") {
			t.Errorf("%s was last used %s", x.Name, x.LastUsedAt)
		}
	}
}

func third(_ *access.APIToken, _ string, err error) error { return err }
