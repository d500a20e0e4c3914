package testkit_test

import (
	"bytes"
	"crypto"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"stella-ops.org/stella/api"
	stellav1 "stella-ops.org/stella/api/stella/v1"
	"stella-ops.org/stella/internal/httpsig"
	"stella-ops.org/stella/internal/pki"
	"stella-ops.org/stella/internal/testkit"
)

// recorded is a heartbeat as somebody in between has seen it.
type recorded struct {
	header http.Header
	body   []byte
}

// record signs a heartbeat by hand.
func (h *handmade) record(t testing.TB, key crypto.Signer, boot, number int64, status string) *recorded {
	t.Helper()
	return h.covering(t, api.SignedComponents(), key, boot, number, status)
}

// covering is record with a signature that covers what the test says.
func (h *handmade) covering(t testing.TB, components []string, key crypto.Signer, boot, number int64, status string) *recorded {
	t.Helper()
	body, err := json.Marshal(api.HeartbeatRequest{Status: status})
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(h.url("/heartbeat"))
	if err != nil {
		t.Fatal(err)
	}
	r := &recorded{header: http.Header{"Content-Type": {"application/json"}, "Signature-Agent": {"x"}}, body: body}
	httpsig.SetDigest(r.header, body)
	err = httpsig.Sign(httpsig.Message{Method: http.MethodPost, Path: u.EscapedPath(), Header: r.header}, components, httpsig.Params{
		// A clock that is years off: it is not by that that a heartbeat is old.
		Created: 1, KeyID: pki.Fingerprint(h.cert.Certificate[0]), Nonce: api.SignatureNonce(boot, number), Tag: api.SignatureTag,
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// play sends a recorded heartbeat over a connection.
func (r *recorded) play(t testing.TB, c *http.Client, to string) (int, api.Problem) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, to, bytes.NewReader(r.body))
	if err != nil {
		t.Fatal(err)
	}
	maps.Copy(req.Header, r.header)
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode == http.StatusOK {
		return res.StatusCode, api.Problem{}
	}
	return res.StatusCode, problem(t, data)
}

// signing registers an agent that signs its heartbeats.
func signing(t testing.TB, cp *testkit.ControlPlane, name string) *handmade {
	t.Helper()
	return registered(t, cp, cp.Token(), api.RegisterRequest{Name: name, Capabilities: []string{"docker"}, SignsHeartbeats: true})
}

// heardLast waits until the store has a heartbeat's status.
func heardLast(t testing.TB, cp *testkit.ControlPlane, id string, want api.AgentStatus) {
	t.Helper()
	testkit.Eventually(t, linkPatience, "the heartbeat to be stored", func() (bool, string) {
		a, err := cp.Client.Agent(t.Context(), id)
		if err != nil {
			return false, err.Error()
		}
		return a.Status == want, string(a.Status)
	})
}

// A heartbeat that was seen on its way is of no use to anybody: not once more, not
// altered, not for another agent, not over another agent's connection.
func TestAttackHeartbeatRequests(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	h, other := signing(t, cp, "a"), signing(t, cp, "b")
	own, others := h.http2(), other.http2()
	seen := h.record(t, h.key, 3, 5, "online")
	if status, p := seen.play(t, own, h.url("/heartbeat")); status != http.StatusOK {
		t.Fatalf("an honest one: %d %+v", status, p)
	}
	alter := func(change func(*recorded)) *recorded {
		r := h.record(t, h.key, 3, 6, "online")
		change(r)
		return r
	}
	input := func(was, is string) *recorded {
		return alter(func(r *recorded) {
			r.header.Set("Signature-Input", strings.Replace(r.header.Get("Signature-Input"), was, is, 1))
		})
	}
	for name, c := range map[string]struct {
		r     *recorded
		over  *http.Client
		to    string
		code  string
		known int64
	}{
		"once more":                       {seen, own, h.url("/heartbeat"), api.CodeNumberRefused, 3},
		"a lower number":                  {h.record(t, h.key, 3, 4, "degraded"), own, h.url("/heartbeat"), api.CodeNumberRefused, 3},
		"an older boot":                   {h.record(t, h.key, 2, 99, "degraded"), own, h.url("/heartbeat"), api.CodeNumberRefused, 3},
		"another body":                    {alter(func(r *recorded) { r.body = []byte(`{"status":"degraded"}`) }), own, h.url("/heartbeat"), api.CodeSignatureRefused, 0},
		"another body and digest":         {alter(func(r *recorded) { r.body = []byte(`{"status":"degraded"}`); httpsig.SetDigest(r.header, r.body) }), own, h.url("/heartbeat"), api.CodeSignatureRefused, 0},
		"a space behind the body":         {alter(func(r *recorded) { r.body = append(r.body, ' ') }), own, h.url("/heartbeat"), api.CodeSignatureRefused, 0},
		"another type":                    {alter(func(r *recorded) { r.header.Set("Content-Type", "application/json; charset=utf-8") }), own, h.url("/heartbeat"), api.CodeSignatureRefused, 0},
		"another number":                  {input("3.6", "3.7"), own, h.url("/heartbeat"), api.CodeSignatureRefused, 0},
		"another time":                    {input("created=1", "created=2"), own, h.url("/heartbeat"), api.CodeSignatureRefused, 0},
		"without what it covers":          {input(` "content-digest"`, ""), own, h.url("/heartbeat"), api.CodeSignatureRefused, 0},
		"one that covers less":            {h.covering(t, []string{"@method", "@path", "content-type"}, h.key, 3, 6, "degraded"), own, h.url("/heartbeat"), api.CodeSignatureRefused, 0},
		"one that covers nothing":         {h.covering(t, nil, h.key, 3, 6, "degraded"), own, h.url("/heartbeat"), api.CodeSignatureRefused, 0},
		"one that covers more":            {h.covering(t, append(api.SignedComponents(), "signature-agent"), h.key, 3, 6, "degraded"), own, h.url("/heartbeat"), api.CodeSignatureRefused, 0},
		"no signature behind its input":   {alter(func(r *recorded) { r.header.Del("Signature") }), own, h.url("/heartbeat"), api.CodeSignatureRefused, 0},
		"no digest":                       {alter(func(r *recorded) { r.header.Del("Content-Digest") }), own, h.url("/heartbeat"), api.CodeSignatureRefused, 0},
		"with another tag":                {input(api.SignatureTag, "stella-other"), own, h.url("/heartbeat"), api.CodeHeartbeatUnsigned, 0},
		"without a signature":             {&recorded{header: http.Header{"Content-Type": {"application/json"}}, body: []byte(`{"status":"degraded"}`)}, own, h.url("/heartbeat"), api.CodeHeartbeatUnsigned, 0},
		"by another key":                  {h.record(t, other.key, 3, 6, "degraded"), own, h.url("/heartbeat"), api.CodeSignatureRefused, 0},
		"by a number that is none":        {h.record(t, h.key, 0, 6, "degraded"), own, h.url("/heartbeat"), api.CodeSignatureRefused, 0},
		"over another agent's connection": {h.record(t, h.key, 3, 6, "degraded"), others, h.url("/heartbeat"), "not_your_identity", 0},
		"for another agent":               {h.record(t, h.key, 3, 6, "degraded"), others, other.url("/heartbeat"), api.CodeSignatureRefused, 0},
		"over a stranger's connection":    {h.record(t, h.key, 3, 6, "degraded"), httpClient(tlsConfig(cp)), h.url("/heartbeat"), "certificate_missing", 0},
	} {
		status, p := c.r.play(t, c.over, c.to)
		if status != http.StatusUnauthorized && status != http.StatusForbidden || p.Code != c.code || p.KnownBoot != c.known {
			t.Errorf("%s: %d %+v, want %s", name, status, p, c.code)
		}
	}
	// The agent goes on where it was, and none of that was heard.
	if status, p := h.record(t, h.key, 3, 6, "online").play(t, own, h.url("/heartbeat")); status != http.StatusOK {
		t.Errorf("the next honest one: %d %+v", status, p)
	}
	heardLast(t, cp, h.id, api.StatusOnline)
	if status, p := h.record(t, h.key, 4, 1, "degraded").play(t, own, h.url("/heartbeat")); status != http.StatusOK {
		t.Errorf("the next boot: %d %+v", status, p)
	}
	heardLast(t, cp, h.id, api.StatusDegraded)
}

// A renewed certificate has a new key: what was signed by the one before is of no
// use over a connection with the new one.
func TestAttackHeartbeatOfTheKeyBefore(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	h := signing(t, cp, "a")
	kept := h.record(t, h.key, 9, 9, "degraded") // never sent, and so never heard
	renewed := renewedBy(t, h)
	if status, p := kept.play(t, renewed.http2(), h.url("/heartbeat")); status != http.StatusUnauthorized || p.Code != api.CodeSignatureRefused || !strings.Contains(p.Detail, "keyid") {
		t.Errorf("%d %+v", status, p)
	}
	if status, p := renewed.record(t, renewed.key, 1, 1, "online").play(t, renewed.http2(), h.url("/heartbeat")); status != http.StatusOK {
		t.Errorf("%d %+v", status, p)
	}
}

// renewedBy is the agent with its next certificate, by an own key.
func renewedBy(t testing.TB, h *handmade) *handmade {
	t.Helper()
	next := *h
	next.key = newKey(t)
	var res api.CertificateResponse
	status, body := call(t, h.http2(), http.MethodPost, h.url("/certificate"), nil, api.CertificateRequest{CSR: csr(t, next.key)})
	if status != http.StatusOK {
		t.Fatalf("renew: %d %s", status, body)
	}
	into(t, body, &res)
	next.cert = certificateOf(t, res.Certificate, next.key)
	return &next
}

// What was heard once is not heard again after a restart of the server, nor by
// another one, and an agent goes on where it was.
func TestAttackHeartbeatAfterARestart(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	h := signing(t, cp, "a")
	first, second := h.record(t, h.key, 3, 5, "online"), h.record(t, h.key, 3, 6, "degraded")
	for _, r := range []*recorded{first, second} {
		if status, p := r.play(t, h.http2(), h.url("/heartbeat")); status != http.StatusOK {
			t.Fatalf("%d %+v", status, p)
		}
	}
	if err := cp.Stop(); err != nil {
		t.Fatal(err)
	}
	cp.Start()
	for _, r := range []*recorded{first, second} {
		if status, p := r.play(t, h.http2(), h.url("/heartbeat")); status != http.StatusUnauthorized || p.Code != api.CodeNumberRefused || p.KnownBoot != 3 {
			t.Errorf("after a restart: %d %+v", status, p)
		}
	}
	if status, p := h.record(t, h.key, 3, 7, "online").play(t, h.http2(), h.url("/heartbeat")); status != http.StatusOK {
		t.Errorf("%d %+v", status, p)
	}
}

func TestAttackHeartbeatOnAnotherServer(t *testing.T) {
	t.Parallel()
	a, b := twoServers(t)
	h := signing(t, a, "a")
	atB := *h
	atB.cp = b
	seen := h.record(t, h.key, 3, 5, "degraded")
	if status, p := seen.play(t, h.http2(), h.url("/heartbeat")); status != http.StatusOK {
		t.Fatalf("%d %+v", status, p)
	}
	heardLast(t, a, h.id, api.StatusDegraded)
	if status, p := seen.play(t, atB.http2(), atB.url("/heartbeat")); status != http.StatusUnauthorized || p.Code != api.CodeNumberRefused {
		t.Errorf("on another server: %d %+v", status, p)
	}
	// A link's hello counts there, too.
	l := rawWebSocket(t, &atB)
	l.connect(4, 1)
	testkit.Eventually(t, linkPatience, "the hello to be known to the other server", func() (bool, string) {
		status, p := h.record(t, h.key, 3, 99, "degraded").play(t, h.http2(), h.url("/heartbeat"))
		return status == http.StatusUnauthorized && p.KnownBoot == 4, p.Detail
	})
}

// Who sits within TLS cannot say, repeat or hold back a heartbeat of a link
// without the link's end, and a hello is of no use on another connection.
func TestAttackHeartbeatsOnALink(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	onEachRawCarrier(t, func(t *testing.T, open func(h *handmade) *rawLink) {
		h := signing(t, cp, "web-"+strings.ToLower(t.Name()[strings.LastIndex(t.Name(), "/")+1:]))
		boot := int64(0)
		for name, send := range map[string]func(l *rawLink, before *stellav1.SignedHeartbeat) *stellav1.ConnectRequest{
			"once more": func(_ *rawLink, before *stellav1.SignedHeartbeat) *stellav1.ConnectRequest {
				return signedFrame(before)
			},
			"a number that goes back": func(l *rawLink, _ *stellav1.SignedHeartbeat) *stellav1.ConnectRequest {
				l.number = 0
				return signedFrame(l.beat("degraded"))
			},
			"one that was held back": func(l *rawLink, _ *stellav1.SignedHeartbeat) *stellav1.ConnectRequest {
				l.beat("online")
				return signedFrame(l.beat("degraded"))
			},
			"altered": func(l *rawLink, _ *stellav1.SignedHeartbeat) *stellav1.ConnectRequest {
				b := l.beat("online")
				b.Heartbeat = bytes.Replace(b.Heartbeat, []byte("online"), []byte("degrad"), 1)
				return signedFrame(b)
			},
			"without its MAC": func(l *rawLink, _ *stellav1.SignedHeartbeat) *stellav1.ConnectRequest {
				b := l.beat("degraded")
				b.Mac = nil
				return signedFrame(b)
			},
			"unsigned":       func(*rawLink, *stellav1.SignedHeartbeat) *stellav1.ConnectRequest { return plainBeat("degraded") },
			"unsigned hello": func(*rawLink, *stellav1.SignedHeartbeat) *stellav1.ConnectRequest { return plainHello() },
		} {
			boot++
			l := open(h)
			l.connect(boot, 1)
			before := l.beat("online")
			l.say(signedFrame(before))
			l.acked()
			l.say(send(l, before))
			code := api.CodeSignatureRefused
			if strings.HasPrefix(name, "unsigned") {
				code = api.CodeHeartbeatUnsigned
			}
			frames, err := l.end()
			if err == nil || !strings.Contains(err.Error(), code) {
				t.Errorf("%s: the link has ended with %v, want %s", name, err, code)
			}
			for _, f := range frames {
				if f.GetHeartbeatAck() != nil {
					t.Errorf("%s: it was heard", name)
				}
			}
		}
		// The hellos.
		captured := open(h)
		boot++
		seen := captured.hello(boot, 1)
		tampered, _ := proto.Clone(captured.hello(boot, 1)).(*stellav1.ConnectRequest)
		tampered.GetSignedHello().Hello[3] ^= 1
		foreign := signing(t, cp, h.id+"-other")
		for name, c := range map[string]struct {
			hello func(l *rawLink) *stellav1.ConnectRequest
			code  string
			known int64
		}{
			"of another connection": {func(*rawLink) *stellav1.ConnectRequest { return seen }, api.CodeSignatureRefused, 0},
			"altered":               {func(*rawLink) *stellav1.ConnectRequest { return tampered }, api.CodeSignatureRefused, 0},
			"of an older boot":      {func(l *rawLink) *stellav1.ConnectRequest { return l.hello(boot-2, 9) }, api.CodeNumberRefused, boot - 1},
			"of the same number":    {func(l *rawLink) *stellav1.ConnectRequest { return l.hello(boot-1, 1) }, api.CodeNumberRefused, boot - 1},
			"by another agent's key": {func(l *rawLink) *stellav1.ConnectRequest {
				own := l.h
				thief := *own
				thief.key = foreign.key
				l.h = &thief
				f := l.hello(boot, 1)
				l.h = own
				return f
			}, api.CodeSignatureRefused, 0},
			"unsigned": {func(*rawLink) *stellav1.ConnectRequest { return plainHello() }, api.CodeHeartbeatUnsigned, 0},
		} {
			l := open(h)
			l.say(c.hello(l))
			frames, err := l.end()
			if err == nil || !strings.Contains(err.Error(), c.code) {
				t.Errorf("a hello %s: the link has ended with %v, want %s", name, err, c.code)
			}
			var known int64
			for _, f := range frames {
				if f.GetNumberRefused() == nil {
					t.Errorf("a hello %s: answered by %v", name, f)
				}
				known = f.GetNumberRefused().GetKnownBoot()
			}
			if known != c.known {
				t.Errorf("a hello %s: told of boot %d, want %d", name, known, c.known)
			}
		}
		// None of that has used anything up; nor was any of it heard.
		captured.say(seen)
		if f, err := captured.recv(); err != nil || f.GetWelcome() == nil {
			t.Errorf("the captured hello over its own connection: %v, %v", f, err)
		}
		heardLast(t, cp, h.id, api.StatusOnline)
	})
}

// Somebody between an agent and its server, who has the server's key for TLS, may
// pass its heartbeats on; to alter or to repeat them is noticed.
func TestAttackRelayedHeartbeats(t *testing.T) {
	t.Parallel()
	cp := testkit.StartServer(t)
	data := t.TempDir()
	r := startRelay(t, cp, data)
	seen := make(chan *recorded, 1000)
	r.hears(func(req *http.Request, body []byte) []byte {
		seen <- &recorded{header: req.Header.Clone(), body: body}
		return body
	})
	cp.StartAgent("web", pollingThrough(r, data))
	a := cp.WaitOnline("web")
	if !a.SignsHeartbeats || a.Transport != "poll" {
		t.Fatalf("%+v", a)
	}
	captured := <-seen
	h := &handmade{cp: cp, id: a.ID, cert: *credentialIn(t, data)}
	if status, p := captured.play(t, h.http2(), h.url("/heartbeat")); status != http.StatusUnauthorized || p.Code != api.CodeNumberRefused {
		t.Errorf("repeated: %d %+v", status, p)
	}
	r.hears(func(_ *http.Request, body []byte) []byte {
		return bytes.Replace(body, []byte(`{`), []byte(`{"notAccepting":"evil",`), 1)
	})
	// What is altered is not heard: the agent falls silent.
	testkit.Eventually(t, 30*time.Second, "the agent to fall silent", func() (bool, string) {
		a, err := cp.Client.Agent(t.Context(), "web")
		if err != nil {
			return false, err.Error()
		}
		if a.NotAccepting != "" {
			t.Fatal("the altered heartbeat was heard")
		}
		return a.Liveness == api.Stale, string(a.Liveness)
	})
	r.hears(func(_ *http.Request, body []byte) []byte { return body })
	cp.WaitOnline("web")
}
