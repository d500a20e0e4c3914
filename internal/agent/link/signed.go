package link

import (
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"

	"google.golang.org/protobuf/proto"

	"stella-ops.org/stella/api"
	stellav1 "stella-ops.org/stella/api/stella/v1"
	"stella-ops.org/stella/internal/httpsig"
	"stella-ops.org/stella/internal/linkauth"
)

// Agent is whom a carrier speaks for. Its functions are called at any time, by
// many goroutines.
type Agent struct {
	ServerURL string
	ID        string
	// Plain returns the HTTP client for a connection that is made now, and the
	// certificate that the connection will show. The client has no timeout.
	Plain func() (*http.Client, *tls.Certificate)
	// Upgrading is Plain with a client that speaks HTTP/1.1.
	Upgrading func() (*http.Client, *tls.Certificate)
	// Number returns the boot, and a number that is above all before it.
	Number func() (boot, number int64)
}

// NumberRefusedError says that the server has heard of the agent what comes after
// the number that it was given: the agent's disk is a restored copy, or a copied
// one.
type NumberRefusedError struct{ KnownBoot int64 }

// Error implements error.
func (e *NumberRefusedError) Error() string {
	return fmt.Sprintf("the server has heard of boot %d of this agent, and takes nothing that was signed before", e.KnownBoot)
}

// numberRefused makes a NumberRefusedError of the problem that says so.
func numberRefused(err error) error {
	if p, ok := errors.AsType[*api.Problem](err); ok && p.Code == api.CodeNumberRefused {
		return &NumberRefusedError{p.KnownBoot}
	}
	return err
}

// vouching is how the agent vouches for what it says on one connection: by its
// hello, and then under the key that both ends make of the hello and the welcome.
type vouching struct {
	binding linkauth.Binding
	share   *linkauth.Share

	mu     sync.Mutex
	key    *linkauth.Key // nil until the welcome
	number int64         // of the last heartbeat
}

// vouch signs a hello for a connection that shows the certificate.
func (a *Agent) vouch(hello *stellav1.Hello, conn net.Conn, cert *tls.Certificate) (*vouching, *stellav1.ConnectRequest, error) {
	t, ok := conn.(*tls.Conn)
	if !ok {
		return nil, nil, fmt.Errorf("sign the hello: the connection is of the kind %T, and not TLS", conn)
	}
	cs := t.ConnectionState()
	exported, err := linkauth.Exported(&cs)
	if err != nil {
		return nil, nil, fmt.Errorf("sign the hello: %w", err)
	}
	share, err := linkauth.NewShare()
	if err != nil {
		return nil, nil, fmt.Errorf("sign the hello: %w", err)
	}
	hello = proto.CloneOf(hello)
	hello.Boot, hello.Number = a.Number()
	hello.KeyShare = share.Public()
	data, err := proto.Marshal(hello)
	if err != nil {
		return nil, nil, fmt.Errorf("encode the hello: %w", err)
	}
	signature, err := signText(cert, api.SignedHelloText(exported, a.ID, data))
	if err != nil {
		return nil, nil, fmt.Errorf("sign the hello: %w", err)
	}
	v := &vouching{binding: linkauth.Binding{Exported: exported, AgentID: a.ID}, share: share}
	return v, &stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_SignedHello{SignedHello: &stellav1.SignedHello{Hello: data, Signature: signature}}}, nil
}

func signText(cert *tls.Certificate, text []byte) ([]byte, error) {
	key, err := keyOf(cert)
	if err != nil {
		return nil, err
	}
	return httpsig.SignText(key, text)
}

func keyOf(cert *tls.Certificate) (crypto.Signer, error) {
	key, ok := cert.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, errors.New("the agent's key cannot sign")
	}
	return key, nil
}

// down takes a frame from the server: the welcome has its share of the key.
func (v *vouching) down(f *stellav1.ConnectResponse) (*stellav1.ConnectResponse, error) {
	switch f := f.GetFrame().(type) {
	case *stellav1.ConnectResponse_NumberRefused:
		return nil, &NumberRefusedError{f.NumberRefused.GetKnownBoot()}
	case *stellav1.ConnectResponse_Welcome:
		key, err := v.binding.AgentKey(v.share, f.Welcome.GetKeyShare())
		if err != nil {
			return nil, fmt.Errorf("the server's welcome does not answer a signed hello (is the server older than this agent?): %w", err)
		}
		v.mu.Lock()
		v.key, v.share = &key, nil
		v.mu.Unlock()
	}
	return f, nil
}

// send sends a frame, a heartbeat with its number and MAC. In one piece: they go
// in the order of their numbers.
func (v *vouching) send(f *stellav1.ConnectRequest, send func(*stellav1.ConnectRequest) error) error {
	beat, ok := f.GetFrame().(*stellav1.ConnectRequest_Heartbeat)
	if !ok {
		return send(f)
	}
	data, err := proto.Marshal(beat.Heartbeat)
	if err != nil {
		return fmt.Errorf("encode a heartbeat: %w", err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.key == nil {
		return errors.New("a heartbeat is sent before the server's welcome has come, which has the key for it")
	}
	v.number++
	return send(&stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_SignedHeartbeat{SignedHeartbeat: &stellav1.SignedHeartbeat{
		Heartbeat: data, Number: v.number, Mac: v.key.MAC(v.number, data),
	}}})
}
