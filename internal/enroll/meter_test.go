package enroll_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/enroll"
)

// Everything that becomes of a token or a certificate is counted, once, and under
// words that are the installation's and not a stranger's.
func TestWhatIsCounted(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	want := func(what string, counted ...string) {
		t.Helper()
		if diff := cmp.Diff(counted, b.counts()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	register := func(c enroll.Caller, req api.RegisterRequest) {
		t.Helper()
		if req.CSR == "" {
			req.CSR = b.key()
		}
		_, _ = b.Register(t.Context(), c, req) // what came of it is what is counted
	}
	_, bound := b.token(api.RegistrationTokenRequest{Environment: "prod", Platform: "linux"})
	first := api.RegisterRequest{ID: "id-1", Name: "n", Environment: "dev", CSR: b.key()}
	register(enroll.Caller{Token: bound}, first)
	want("what a token binds", "registration", "bootstrap prod/linux ")
	register(enroll.Caller{Token: bound}, first)
	want("the same again: its agent has heard nothing")
	register(enroll.Caller{Token: bound}, api.RegisterRequest{Name: "m"})
	want("another agent", "bootstrap prod/linux token_used")

	_, open := b.token(api.RegistrationTokenRequest{MaxUses: 5})
	register(enroll.Caller{Token: open}, api.RegisterRequest{Name: "n", Environment: "dev", Platform: "docker"})
	want("a name that is taken", "bootstrap dev/docker name_taken")
	register(enroll.Caller{Token: open}, api.RegisterRequest{Name: "k", EncryptionPublicKey: "AAAA"})
	want("a bad key", "bootstrap / invalid")
	register(enroll.Caller{Token: open}, api.RegisterRequest{Name: "k", Environment: "a\nb", Platform: strings.Repeat("x", 1000)})
	want("words that are no good", "bootstrap / invalid")
	register(enroll.Caller{Token: "reg_x", Quiet: true}, api.RegisterRequest{Name: "k", Environment: "made up"})
	want("a stranger, whose refusals the audit log is spared", "bootstrap / token_unknown")
	if err := b.Admit(t.Context(), enroll.Caller{Token: "reg_x"}); err == nil {
		t.Error("a stranger is admitted")
	}
	want("one at the door", "bootstrap / token_unknown")

	me := enroll.Caller{TenantID: tenant, AgentID: "id-1"}
	register(me, api.RegisterRequest{Name: "n"})
	want("by its own certificate", "reregistration")
	for _, expired := range []bool{false, true} {
		issued, err := b.Renew(t.Context(), me, "the key in use", expired, &api.CertificateRequest{CSR: b.key()})
		b.must(err)
		for range 2 {
			b.must(b.Adopt(t.Context(), b.agent("id-1"), issued.Fingerprint, time.Hour))
		}
	}
	want("renewals, and first uses of what came of them", "renewal", "adopted", "recovery", "adopted")
	if _, err := b.Renew(t.Context(), me, "the key in use", false, &api.CertificateRequest{CSR: "x"}); err == nil {
		t.Error("a bad request is taken")
	}
	want("none is issued for a bad request")
}
