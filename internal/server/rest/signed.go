package rest

import (
	"context"
	"crypto/x509"
	"slices"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
	"stella-ops.org/stella/internal/httpsig"
)

// beat is the input of heartbeat. Its headers are read where they are verified;
// they stand here for the API's document.
type beat struct {
	IDPath
	ContentDigest  string `header:"Content-Digest" maxLength:"1024" doc:"The body's digest with sha-256 (RFC 9530), when the heartbeat is signed."`
	SignatureInput string `header:"Signature-Input" maxLength:"4096" doc:"What the signature covers, and its parameters (RFC 9421): the components \"@method\" \"@path\" \"content-digest\" \"content-type\", created, keyid (the certificate's SHA-256 in hex), alg, nonce (boot.number) and tag stella-heartbeat."`
	Signature      string `header:"Signature" maxLength:"4096" doc:"The signature by the key of the client certificate."`
	Body           api.HeartbeatRequest
	RawBody        []byte
	message        httpsig.Message
	leaf           *x509.Certificate
	remote         string
}

// Resolve is called by huma before the handler.
func (in *beat) Resolve(ctx huma.Context) []error {
	r, _ := humago.Unwrap(ctx)
	in.remote = r.RemoteAddr
	in.message = httpsig.Message{Method: r.Method, Path: r.URL.EscapedPath(), Header: r.Header}
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		in.leaf = r.TLS.PeerCertificates[0]
	}
	return nil
}

// heard verifies what an agent has signed, and returns its number; the zero one
// of an agent that need not sign, and has not.
func (s *Server) heard(ctx context.Context, a *fleet.Agent, in *beat) (fleet.Number, error) {
	signature, err := httpsig.Find(in.message.Header, api.SignatureTag)
	if err == nil && signature == nil {
		return fleet.Number{}, a.MustSign(s.SignedOnly, "heartbeat")
	}
	var n fleet.Number
	if err == nil {
		n, err = in.verify(a, signature)
	}
	if err == nil {
		err = s.Monitor.Number(a, n)
	} else if fault.As(err) == nil {
		err = fault.Wrap(err, fault.Unauthenticated, api.CodeSignatureRefused, "the heartbeat's signature is refused: "+err.Error())
	}
	// An agent that does so all the time does not fill the log.
	if err != nil && s.Strangers.Refused("agent:"+a.ID) == nil {
		s.log.WarnContext(ctx, "a signed heartbeat was refused", "agent", a.ID, "error", err)
	}
	return n, err
}

// verify checks that a signature covers the whole of a heartbeat, and is by the
// certificate of the connection. When it says that it was made means nothing:
// agents may have clocks that are days off, and what it is worth its number says.
func (in *beat) verify(a *fleet.Agent, signature *httpsig.Signature) (fleet.Number, error) {
	if got := slices.Sorted(slices.Values(signature.Components)); !slices.Equal(got, api.SignedComponents()) {
		return fleet.Number{}, fault.New(fault.Unauthenticated, api.CodeSignatureRefused,
			"the heartbeat's signature covers %q: it is to cover %q, no more and no less", got, api.SignedComponents())
	}
	if signature.KeyID != a.CertificateFingerprint {
		return fleet.Number{}, fault.New(fault.Unauthenticated, api.CodeSignatureRefused,
			"the heartbeat's signature has the keyid %q: it is to be the SHA-256 of the certificate that the connection shows, %s", clip(signature.KeyID), a.CertificateFingerprint)
	}
	if err := signature.Verify(in.message, in.leaf.PublicKey); err != nil {
		return fleet.Number{}, err
	}
	if err := httpsig.CheckDigest(in.message.Header, in.RawBody); err != nil {
		return fleet.Number{}, err
	}
	return fleet.ParseNumber(signature.Nonce)
}
