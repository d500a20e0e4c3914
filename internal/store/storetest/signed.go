package storetest

import (
	"testing"
	"time"

	"stella-ops.org/stella/internal/enroll"
	"stella-ops.org/stella/internal/fleet"
)

// testSignedHeartbeats: the numbers of what an agent signs only grow, also when
// two servers have heard it, and a beat with a lower one changes nothing.
func testSignedHeartbeats(t *testing.T, b *bench) {
	a := b.agent("web")
	b.enrol(t, a)
	at := b.now
	beat := func(status string, boot, number int64) {
		t.Helper()
		at = at.Add(time.Second)
		_, err := b.RecordHeartbeats(b.ctx, []fleet.Heartbeat{{
			TenantID: tenant, AgentID: a.ID, At: at, Status: status, Signed: fleet.Number{Boot: boot, Number: number},
		}})
		must(t, err)
	}
	for _, c := range []struct {
		boot, number int64
		heard        bool
	}{
		{3, 7, true},
		{3, 7, true}, // the same batch once more, of which nobody knows whether it was stored
		{3, 6, false},
		{2, 100, false},
		{0, 0, true}, // on a link, whose hello had a number
		{3, 8, true},
		{4, 1, true},
		{3, 1 << 60, false},
		{1 << 61, 1, true},
		{4, 2, false},
	} {
		before, err := b.Agent(b.ctx, tenant, a.ID)
		must(t, err)
		status := "online"
		if before.ReportedStatus == status {
			status = "degraded"
		}
		beat(status, c.boot, c.number)
		after, err := b.Agent(b.ctx, tenant, a.ID)
		must(t, err)
		if heard := after.ReportedStatus == status && after.LastHeartbeat.Equal(at); heard != c.heard {
			t.Errorf("boot %d number %d after %+v was heard: %v", c.boot, c.number, before.Signed, heard)
		}
		want := before.Signed
		if c.heard && c.boot > 0 {
			want = fleet.Number{Boot: c.boot, Number: c.number}
		}
		if after.Signed != want {
			t.Errorf("boot %d number %d after %+v: %+v is known", c.boot, c.number, before.Signed, after.Signed)
		}
	}
	// Which is the newer, the agent says, and not the clocks of the servers that have
	// heard it.
	_, err := b.RecordHeartbeats(b.ctx, []fleet.Heartbeat{{
		TenantID: tenant, AgentID: a.ID, At: at.Add(-time.Minute), Status: "by a slow clock", Signed: fleet.Number{Boot: 1 << 61, Number: 2},
	}})
	must(t, err)
	got, err := b.Agent(b.ctx, tenant, a.ID)
	must(t, err)
	if got.ReportedStatus != "by a slow clock" || got.Signed.Number != 2 || !got.LastHeartbeat.Equal(at.Add(-time.Second)) {
		t.Errorf("a newer one by a slow clock: %q, %+v, heard at %s", got.ReportedStatus, got.Signed, got.LastHeartbeat)
	}
	// One that is dead does not come back by what was heard before.
	_, err = b.SweepLiveness(b.ctx, at.Add(time.Hour), at.Add(time.Hour), at.Add(time.Hour))
	must(t, err)
	back, err := b.RecordHeartbeats(b.ctx, []fleet.Heartbeat{{TenantID: tenant, AgentID: a.ID, At: at.Add(2 * time.Hour), Signed: fleet.Number{Boot: 4, Number: 3}}})
	must(t, err)
	if len(back) != 0 {
		t.Errorf("an old heartbeat has brought back %v", back)
	}
}

// testSigning: that an agent signs is taken back by a token, and by nothing else.
func testSigning(t *testing.T, b *bench) {
	a := b.agent("web")
	b.enrol(t, a)
	signs := func(what string, want bool) {
		t.Helper()
		got, err := b.Agent(b.ctx, tenant, a.ID)
		must(t, err)
		if got.SignsHeartbeats != want {
			t.Errorf("%s: it signs: %v", what, got.SignsHeartbeats)
		}
	}
	n := 0
	resume := func(tokenID string, says bool) {
		t.Helper()
		n++
		again := b.agent("web")
		again.SignsHeartbeats, again.PublicKeyHash, again.CertificateFingerprint = says, hash(numbered("key", n)), hash(numbered("cert", n))
		e := b.enrolment(again)
		e.Resume, e.TokenID = true, tokenID
		must(t, b.Enrol(b.ctx, e))
	}
	renew := func(says bool) {
		t.Helper()
		n++
		must(t, b.Renew(b.ctx, &enroll.Renewal{Agent: a, At: b.now, SignsHeartbeats: says, Cert: enroll.Issued{
			Fingerprint: hash(numbered("cert", n)), Serial: numbered("s", n), NotBefore: b.now, NotAfter: b.now.Add(time.Hour),
		}}))
	}
	signs("registered as one that does not", false)
	renew(false)
	signs("renewed without a word", false)
	renew(true)
	signs("renewed", true)
	renew(false)
	signs("renewed without a word", true)
	resume("", false)
	signs("registered again by its key", true)
	resume(b.token(t, "one", 1).ID, false)
	signs("registered again by a token", false)
	resume("", true)
	signs("registered again by its key, as one that does", true)
}
