package link

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"stella-ops.org/stella/api"
	stellav1 "stella-ops.org/stella/api/stella/v1"
	"stella-ops.org/stella/internal/enroll"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/httpsig"
	"stella-ops.org/stella/internal/linkauth"
)

// vouching is an agent that signs, over one connection.
type vouching struct {
	b       *bench
	agent   *fleet.Agent
	key     *ecdsa.PrivateKey
	binding *Binding
	share   *linkauth.Share
}

func (b *bench) vouching(a *fleet.Agent) *vouching {
	b.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	b.must(err)
	share, err := linkauth.NewShare()
	b.must(err)
	return &vouching{b, a, key, &Binding{Exported: bytes.Repeat([]byte{7}, 32), Key: key.Public()}, share}
}

func (v *vouching) hello(boot, number int64) *stellav1.Hello {
	h := hello().GetHello()
	h.Boot, h.Number, h.KeyShare = boot, number, v.share.Public()
	return h
}

// sign signs a hello as it stands.
func (v *vouching) sign(h *stellav1.Hello) *stellav1.ConnectRequest {
	v.b.t.Helper()
	data, err := proto.Marshal(h)
	v.b.must(err)
	return v.signData(data)
}

func (v *vouching) signData(data []byte) *stellav1.ConnectRequest {
	v.b.t.Helper()
	signature, err := httpsig.SignText(v.key, api.SignedHelloText(v.binding.Exported, v.agent.ID, data))
	v.b.must(err)
	return &stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_SignedHello{SignedHello: &stellav1.SignedHello{Hello: data, Signature: signature}}}
}

func (v *vouching) serve(w *wire, b *Binding) {
	go func() {
		err := v.b.Serve(v.b.t.Context(), v.agent, w, b)
		w.Cut()
		w.ended <- err
	}()
}

// connect says a signed hello, and makes the key out of the welcome.
func (v *vouching) connect(boot, number int64) (*wire, *linkauth.Key) {
	v.b.t.Helper()
	w := newWire(v.b.t)
	w.up <- v.sign(v.hello(boot, number))
	v.serve(w, v.binding)
	welcome := w.next().GetWelcome()
	key, err := (&linkauth.Binding{Exported: v.binding.Exported, AgentID: v.agent.ID}).AgentKey(v.share, welcome.GetKeyShare())
	v.b.must(err)
	return w, &key
}

// beatBy is a heartbeat with its number and MAC.
func beatBy(key *linkauth.Key, number int64, status string) *stellav1.SignedHeartbeat {
	data, err := proto.Marshal(&stellav1.Heartbeat{Status: status})
	if err != nil {
		panic(err) // it is made of text
	}
	return &stellav1.SignedHeartbeat{Heartbeat: data, Number: number, Mac: key.MAC(number, data)}
}

func frameOf(b *stellav1.SignedHeartbeat) *stellav1.ConnectRequest {
	return &stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_SignedHeartbeat{SignedHeartbeat: b}}
}

func TestSignedLink(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a := b.agent("a")
	v := b.vouching(a)
	w, key := v.connect(3, 1)
	for number := int64(1); number <= 3; number++ {
		w.up <- frameOf(beatBy(key, number, "online"))
		if f := w.next(); f.GetHeartbeatAck() == nil {
			t.Fatalf("instead of an acknowledgement: %v", f)
		}
	}
	// Whatever else an agent says is as on every link.
	b.submit(a)
	if _, ref := w.task(); ref.GetAttempt() != 1 {
		t.Error(ref)
	}
}

// What is not exactly what the agent said next ends the link, and is not heard.
func TestSignedLinkIsNotPlayedWith(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		send func(key *linkauth.Key) *stellav1.ConnectRequest
		kind fault.Kind
		code string
	}{
		"a heartbeat once more": {func(key *linkauth.Key) *stellav1.ConnectRequest { return frameOf(beatBy(key, 1, "first")) }, fault.Unauthenticated, api.CodeSignatureRefused},
		"one that was skipped":  {func(key *linkauth.Key) *stellav1.ConnectRequest { return frameOf(beatBy(key, 3, "late")) }, fault.Unauthenticated, api.CodeSignatureRefused},
		"number nothing":        {func(key *linkauth.Key) *stellav1.ConnectRequest { return frameOf(beatBy(key, 0, "late")) }, fault.Unauthenticated, api.CodeSignatureRefused},
		"another number on it": {func(key *linkauth.Key) *stellav1.ConnectRequest {
			f := beatBy(key, 1, "first")
			f.Number = 2
			return frameOf(f)
		}, fault.Unauthenticated, api.CodeSignatureRefused},
		"altered": {func(key *linkauth.Key) *stellav1.ConnectRequest {
			f := beatBy(key, 2, "online")
			f.Heartbeat[3] ^= 1
			return frameOf(f)
		}, fault.Unauthenticated, api.CodeSignatureRefused},
		"without a MAC": {func(key *linkauth.Key) *stellav1.ConnectRequest {
			f := beatBy(key, 2, "online")
			f.Mac = nil
			return frameOf(f)
		}, fault.Unauthenticated, api.CodeSignatureRefused},
		"by another key": {func(*linkauth.Key) *stellav1.ConnectRequest {
			return frameOf(beatBy(&linkauth.Key{}, 2, "online"))
		}, fault.Unauthenticated, api.CodeSignatureRefused},
		"unsigned": {func(*linkauth.Key) *stellav1.ConnectRequest {
			return beat(&stellav1.Heartbeat{Status: "online"})
		}, fault.Unauthenticated, api.CodeHeartbeatUnsigned},
		"an unsigned hello": {func(*linkauth.Key) *stellav1.ConnectRequest { return hello() }, fault.Unauthenticated, api.CodeHeartbeatUnsigned},
		"no heartbeat in it": {func(key *linkauth.Key) *stellav1.ConnectRequest {
			data := []byte{0x0a, 0xff}
			return frameOf(&stellav1.SignedHeartbeat{Heartbeat: data, Number: 2, Mac: key.MAC(2, data)})
		}, fault.Invalid, "frame_malformed"},
		"too many things in it": {func(key *linkauth.Key) *stellav1.ConnectRequest {
			data := bytes.Repeat([]byte{0x1a, 0}, maxList+2)
			return frameOf(&stellav1.SignedHeartbeat{Heartbeat: data, Number: 2, Mac: key.MAC(2, data)})
		}, fault.Invalid, "frame_malformed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			w, key := b.vouching(b.agent("a")).connect(1, 1)
			w.up <- frameOf(beatBy(key, 1, "first"))
			if w.next().GetHeartbeatAck() == nil {
				t.Fatal("the first is not heard")
			}
			w.up <- c.send(key)
			w.wantEnd(c.kind, c.code)
			if len(w.down) != 0 {
				t.Errorf("answered by %v", <-w.down)
			}
		})
	}
}

// A hello is heard when it is by the agent's key, over its own connection, and
// newer than what was heard before; the link is not known otherwise.
func TestSignedHelloRefused(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a, other := b.agent("a"), b.agent("other")
	v := b.vouching(a)
	w, _ := v.connect(3, 5)
	w.leave()
	elsewhere := &Binding{Exported: bytes.Repeat([]byte{8}, 32), Key: v.binding.Key}
	stranger := b.vouching(a)
	asOther := b.vouching(other)
	asOther.key = v.key
	tampered := v.sign(v.hello(4, 1))
	tampered.GetSignedHello().Hello[1] ^= 1
	unsigned := v.sign(v.hello(4, 1))
	unsigned.GetSignedHello().Signature = nil
	late := v.hello(4, 1)
	late.ProtocolVersion = 99
	weak := v.hello(4, 1)
	weak.KeyShare = make([]byte, 32)
	for _, c := range []struct {
		name    string
		first   *stellav1.ConnectRequest
		binding *Binding
		kind    fault.Kind
		code    string
		known   int64
	}{
		{"over another connection", v.sign(v.hello(4, 1)), elsewhere, fault.Unauthenticated, api.CodeSignatureRefused, 0},
		{"over no TLS", v.sign(v.hello(4, 1)), nil, fault.Unauthenticated, api.CodeSignatureRefused, 0},
		{"by another key", stranger.sign(stranger.hello(4, 1)), v.binding, fault.Unauthenticated, api.CodeSignatureRefused, 0},
		{"for another agent", asOther.sign(asOther.hello(4, 1)), v.binding, fault.Unauthenticated, api.CodeSignatureRefused, 0},
		{"altered", tampered, v.binding, fault.Unauthenticated, api.CodeSignatureRefused, 0},
		{"without its signature", unsigned, v.binding, fault.Unauthenticated, api.CodeSignatureRefused, 0},
		{"of the same number", v.sign(v.hello(3, 5)), v.binding, fault.Unauthenticated, api.CodeNumberRefused, 3},
		{"of a lower number", v.sign(v.hello(3, 4)), v.binding, fault.Unauthenticated, api.CodeNumberRefused, 3},
		{"of an older boot", v.sign(v.hello(2, 9)), v.binding, fault.Unauthenticated, api.CodeNumberRefused, 3},
		{"without a boot", v.sign(v.hello(0, 9)), v.binding, fault.Invalid, "number_malformed", 0},
		{"of a later version", v.sign(late), v.binding, fault.UnsupportedVersion, "protocol_version", 0},
		{"with no share", v.sign(hello().GetHello()), v.binding, fault.Invalid, "key_share_malformed", 0},
		{"with a share of low order", v.sign(weak), v.binding, fault.Invalid, "key_share_malformed", 0},
		{"that is none", v.signData([]byte{0x0a, 0xff}), v.binding, fault.Invalid, "frame_malformed", 0},
		{"with an endless list", v.signData(bytes.Repeat([]byte{0x2a, 0}, maxList+2)), v.binding, fault.Invalid, "frame_malformed", 0},
	} {
		w := newWire(t)
		w.up <- c.first
		v.serve(w, c.binding)
		w.wantEnd(c.kind, c.code)
		if b.Connected(a.ID) {
			t.Errorf("%s: it is connected", c.name)
		}
		var known int64
		for len(w.down) > 0 {
			f := <-w.down
			if f.GetNumberRefused() == nil {
				t.Errorf("%s: answered by %v", c.name, f)
			}
			known = f.GetNumberRefused().GetKnownBoot()
		}
		if known != c.known {
			t.Errorf("%s: told of boot %d, want %d", c.name, known, c.known)
		}
	}
	// What was refused has used no number up.
	v.connect(3, 6)
}

// An agent that signs is not heard unsigned; nobody is, where only those are heard.
func TestUnsignedHelloRefused(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	plain, signing := b.agent("plain"), b.agent("signing")
	signing.SignsHeartbeats = true
	refused := func(a *fleet.Agent) {
		t.Helper()
		w := newWire(t)
		w.up <- hello()
		b.serve(a, w)
		w.wantEnd(fault.Unauthenticated, api.CodeHeartbeatUnsigned)
		if b.Connected(a.ID) || len(w.down) != 0 {
			t.Error("it was welcomed")
		}
	}
	refused(signing)
	w := b.connect(plain)
	w.up <- beat(&stellav1.Heartbeat{Status: "online"})
	w.settle()
	// On its link there is no key for a signed one, nor a second hello.
	w.up <- frameOf(beatBy(&linkauth.Key{}, 1, "online"))
	w.wantEnd(fault.Invalid, "hello_unsigned")
	w = b.connect(plain)
	w.up <- b.vouching(plain).sign(b.vouching(plain).hello(1, 1))
	w.wantEnd(fault.Invalid, "hello_expected")

	b.opts.SignedOnly = true
	refused(plain)
	b.vouching(plain).connect(1, 1)
}

// A link that was opened unsigned ends when its agent turns to signing; a signed
// one stays.
func TestLinkOfAnAgentThatTurnsToSigning(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	a, signing := b.agent("a"), b.agent("b")
	w := b.connect(a)
	stays, key := b.vouching(signing).connect(1, 1)
	for _, agent := range []*fleet.Agent{a, signing} {
		now := time.Now()
		b.must(b.store.Renew(t.Context(), &enroll.Renewal{Agent: agent, SignsHeartbeats: true, At: now, Cert: enroll.Issued{
			Fingerprint: "next-" + agent.Name, Serial: "2", NotBefore: now, NotAfter: now.Add(time.Hour),
		}}))
		b.AgentChanged("default", agent.ID)
	}
	w.wantEnd(fault.Unauthenticated, api.CodeHeartbeatUnsigned)
	stays.up <- frameOf(beatBy(key, 1, "online"))
	if stays.next().GetHeartbeatAck() == nil {
		t.Error("the signed link has ended")
	}
}
