package link

import (
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"stella-ops.org/stella/api"
	stellav1 "stella-ops.org/stella/api/stella/v1"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/httpsig"
	"stella-ops.org/stella/internal/linkauth"
)

// Binding is what a signed hello is held against: the connection that it came
// over, and the certificate that the connection shows.
type Binding struct {
	Exported []byte
	Key      crypto.PublicKey
	Remote   string // host and port
}

// bind returns nil for a connection over which nothing can be signed.
func bind(cs *tls.ConnectionState, remote string) *Binding {
	if cs == nil || len(cs.PeerCertificates) == 0 {
		return nil
	}
	exported, err := linkauth.Exported(cs)
	if err != nil {
		return nil
	}
	return &Binding{Exported: exported, Key: cs.PeerCertificates[0].PublicKey, Remote: remote}
}

// vouched is what a signed hello has vouched for: the key of the heartbeats, and
// how many were heard under it. It is owned by the session's reader.
type vouched struct {
	key   linkauth.Key
	heard int64
}

// greeting is a hello that is good.
type greeting struct {
	*stellav1.Hello
	number  fleet.Number // zero when it was not signed
	caller  fleet.Caller
	vouched *vouched // nil when it was not signed
	share   []byte   // for the welcome
}

// greet takes the first frame of a link. An agent that has lost count is told so
// by a frame, with the boot that is known: a close frame has no room for it.
func (h *Hub) greet(ctx context.Context, agent *fleet.Agent, conn Conn, first *stellav1.ConnectRequest, b *Binding) (*greeting, error) {
	signed, ok := first.GetFrame().(*stellav1.ConnectRequest_SignedHello)
	if !ok {
		if err := checkHello(first.GetHello()); err != nil {
			return nil, err
		}
		g := &greeting{Hello: first.GetHello()}
		g.caller = callerOf(g.Hello, b)
		return g, agent.MustSign(h.opts.SignedOnly, "hello")
	}
	g, err := h.greetSigned(agent, signed.SignedHello, b)
	if err != nil {
		h.log.WarnContext(ctx, "a signed hello was refused", "agent", agent.ID, "transport", conn.Transport(), "error", err)
	}
	if old, ok := errors.AsType[*fleet.OldNumber](err); ok {
		cut := time.AfterFunc(sendTimeout, conn.Cut) // who takes nothing must not stay
		_ = conn.Send(&stellav1.ConnectResponse{Frame: &stellav1.ConnectResponse_NumberRefused{NumberRefused: &stellav1.NumberRefused{
			KnownBoot: old.Known.Boot,
		}}}) // gone already otherwise
		cut.Stop()
	}
	return g, err
}

func (h *Hub) greetSigned(agent *fleet.Agent, f *stellav1.SignedHello, b *Binding) (*greeting, error) {
	if b == nil {
		return nil, fault.New(fault.Unauthenticated, api.CodeSignatureRefused, "a hello can be signed only over TLS 1.3 with the agent's certificate")
	}
	if err := httpsig.VerifyText(b.Key, api.SignedHelloText(b.Exported, agent.ID, f.GetHello()), f.GetSignature()); err != nil {
		return nil, fault.Wrap(err, fault.Unauthenticated, api.CodeSignatureRefused,
			"the signature of the hello is not by agent "+agent.ID+"'s certificate over this connection: it was altered, or made for another one")
	}
	g := &greeting{Hello: new(stellav1.Hello), vouched: new(vouched)}
	if err := decodeInner(f.GetHello(), g.Hello); err != nil {
		return nil, err
	}
	if err := checkHello(g.Hello); err != nil {
		return nil, err
	}
	g.caller = callerOf(g.Hello, b)
	g.number = fleet.Number{Boot: g.GetBoot(), Number: g.GetNumber()}
	share, err := linkauth.NewShare()
	if err != nil {
		return nil, err
	}
	binding := linkauth.Binding{Exported: b.Exported, AgentID: agent.ID}
	if g.vouched.key, err = binding.ServerKey(share, g.GetKeyShare()); err != nil {
		return nil, fault.Wrap(err, fault.Invalid, "key_share_malformed", "the hello's "+err.Error())
	}
	g.share = share.Public()
	return g, h.monitor.Number(agent, g.number)
}

// decodeInner decodes a frame that is within another as it was signed.
func decodeInner(data []byte, into proto.Message) error {
	err := countFields(data)
	if err == nil {
		err = proto.Unmarshal(data, into)
	}
	if err != nil {
		return fault.Wrap(err, fault.Invalid, "frame_malformed", fmt.Sprintf("what was signed, of %d bytes, is not the frame that it should be: %v", len(data), err))
	}
	return nil
}

// signedHeartbeat takes a heartbeat with its number and MAC. One that is not good
// ends the link: something in between plays with it.
func (s *session) signedHeartbeat(f *stellav1.SignedHeartbeat) error {
	v := s.vouched
	if v == nil {
		return fault.New(fault.Invalid, "hello_unsigned", "a signed heartbeat comes on a link whose hello was not signed: there is no key to check it by")
	}
	if want := v.heard + 1; f.GetNumber() != want {
		return fault.New(fault.Unauthenticated, api.CodeSignatureRefused,
			"heartbeat %d was expected of agent %s, and number %d came: it was heard already, or one was kept back", want, s.agentID, f.GetNumber())
	}
	if !v.key.Check(f.GetNumber(), f.GetHeartbeat(), f.GetMac()) {
		return fault.New(fault.Unauthenticated, api.CodeSignatureRefused, "the MAC of heartbeat %d of agent %s does not fit: it was altered on the way", f.GetNumber(), s.agentID)
	}
	v.heard++
	b := new(stellav1.Heartbeat)
	if err := decodeInner(f.GetHeartbeat(), b); err != nil {
		return err
	}
	return s.heartbeat(b)
}

// unsigned refuses a frame that only an agent may send that does not sign.
func (s *session) unsigned(what string) error {
	return fault.New(fault.Unauthenticated, api.CodeHeartbeatUnsigned, "agent %s has signed its hello, and this %s is not signed", s.agentID, what)
}

// mayStay refuses a link that was opened unsigned, when its agent signs now.
func (s *session) mayStay(a *fleet.Agent) error {
	if s.vouched != nil {
		return nil
	}
	return a.MustSign(s.hub.opts.SignedOnly, "link")
}

// mayJSON refuses an agent that signs the stream whose messages are JSON: there
// is no form for it.
func (h *Hub) mayJSON(a *fleet.Agent, r *http.Request) error {
	if offersFrames(r) || a.MustSign(h.opts.SignedOnly, "") == nil {
		return nil
	}
	return fault.New(fault.Unauthenticated, api.CodeHeartbeatUnsigned,
		"the task stream in JSON has no signatures, and agent %s is not heard unsigned: use the subprotocol %s with a signed hello, gRPC (stella.v1.LinkService/Connect), or POST /api/v1/agents/{id}/heartbeat with a signature",
		a.ID, api.SubprotocolProto)
}

// offersFrames reports whether a request for a WebSocket offers frames.
func offersFrames(r *http.Request) bool {
	return slices.ContainsFunc(r.Header.Values("Sec-WebSocket-Protocol"), func(line string) bool {
		return slices.ContainsFunc(strings.Split(line, ","), func(p string) bool { return strings.TrimSpace(p) == api.SubprotocolProto })
	})
}
