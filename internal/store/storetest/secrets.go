package storetest

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/filter"
	"stella-ops.org/stella/internal/secret"
)

func testSecrets(t *testing.T, b *bench) {
	put := func(name, value, by string) *secret.Secret {
		t.Helper()
		s := &secret.Secret{
			TenantID: tenant, Name: name, Sealed: []byte(value), CreatedBy: by, UpdatedBy: by, CreatedAt: b.now, UpdatedAt: b.now,
		}
		must(t, b.PutSecret(b.ctx, s))
		return s
	}
	first := put("key", "one", "ann")
	if first.Version != 1 {
		t.Errorf("version %d", first.Version)
	}
	made := b.now
	b.now = b.now.Add(time.Hour)
	second := put("key", "two", "bob")
	want := &secret.Secret{
		TenantID: tenant, Name: "key", Version: 2, Sealed: []byte("two"), CreatedBy: "ann", UpdatedBy: "bob", CreatedAt: made, UpdatedAt: b.now,
	}
	if diff := cmp.Diff(want, second); diff != "" {
		t.Errorf("what was put: %s", diff)
	}
	got, err := b.Secret(b.ctx, tenant, "key")
	must(t, err)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what is there: %s", diff)
	}
	put("Key", "another", "ann")
	if got, err = b.Secret(b.ctx, tenant, "key"); err != nil || string(got.Sealed) != "two" {
		t.Errorf("the case of a name does not count: %+v, %v", got, err)
	}
	if _, err := b.Secret(b.ctx, "other", "key"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("another tenant's: %v", err)
	}
	if err := b.DeleteSecret(b.ctx, "other", "key"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("delete another tenant's: %v", err)
	}
	must(t, b.DeleteSecret(b.ctx, tenant, "key"))
	for what, err := range map[string]error{
		"delete": b.DeleteSecret(b.ctx, tenant, "key"),
		"read":   func() error { _, err := b.Secret(b.ctx, tenant, "key"); return err }(),
	} {
		if fault.KindOf(err) != fault.NotFound || fault.CodeOf(err) != "secret_not_found" {
			t.Errorf("%s what is gone: %v", what, err)
		}
	}
	// Every value of a name has a number of its own, whoever sets it.
	var wg sync.WaitGroup
	other := b.open(t)
	versions := make([]int64, 20)
	for i := range versions {
		wg.Go(func() {
			s := &secret.Secret{TenantID: tenant, Name: "busy", Sealed: fmt.Append(nil, i), CreatedAt: b.now, UpdatedAt: b.now}
			if err := pick(i, b.Store, other).PutSecret(b.ctx, s); err != nil {
				t.Error(err)
			}
			versions[i] = s.Version
		})
	}
	wg.Wait()
	seen := map[int64]bool{}
	for _, v := range versions {
		if v < 1 || v > int64(len(versions)) || seen[v] {
			t.Fatalf("versions %v", versions)
		}
		seen[v] = true
	}
}

func testSecretList(t *testing.T, b *bench) {
	for i := range 12 {
		s := &secret.Secret{
			TenantID: tenant, Name: pick(i, "db", "DB", "key.") + numbered("", i), Sealed: []byte("x"), CreatedBy: pick(i, "ann", "%"), UpdatedBy: "bob",
			CreatedAt: b.now.Add(-time.Duration(i/3) * time.Hour), UpdatedAt: b.now.Add(-time.Duration(i/2) * time.Minute),
		}
		for range 1 + i%3 {
			must(t, b.PutSecret(b.ctx, s))
		}
	}
	all, err := b.Secrets(b.ctx, tenant, secret.Filter{})
	must(t, err)
	agree(t, secret.Schema, b.now, all, func(q filter.Query, limit int) ([]*secret.Secret, error) {
		return b.Secrets(b.ctx, tenant, secret.Filter{Query: q, Limit: limit})
	})
}
