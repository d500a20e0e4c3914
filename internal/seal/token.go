package seal

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// AgentClaims are what an agent's token says. A token is bound to the agent's
// certificate (RFC 8705, cnf x5t#S256): without it, it is worth nothing.
type AgentClaims struct {
	Tenant  string
	AgentID string
	// CertFingerprint is the SHA-256 of the certificate, in hex.
	CertFingerprint string
	// TaskID, TargetID and Attempt are set in a task's own token.
	TaskID   string
	TargetID string
	Attempt  int64
	Expires  time.Time
}

// TokenSigner makes and checks agents' tokens: JWTs signed with Ed25519. It is
// safe for concurrent use.
type TokenSigner struct {
	issuer string
	// keys are the one that signs, and those whose tokens are taken.
	keys func() (jose.Signer, []ed25519.PublicKey)
	now  func() time.Time
}

// NewTokenSigner returns a signer with one key, which does not change; issuer
// names the trust domain.
func NewTokenSigner(key ed25519.PrivateKey, issuer string, now func() time.Time) (*TokenSigner, error) {
	signer, err := tokenSigner(key)
	if err != nil {
		return nil, err
	}
	public, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return nil, errors.New("token signer: the key is no Ed25519 key")
	}
	keys := func() (jose.Signer, []ed25519.PublicKey) { return signer, []ed25519.PublicKey{public} }
	return &TokenSigner{issuer: issuer, keys: keys, now: now}, nil
}

// Tokens returns a signer of tokens with the installation's keys; issuer names
// the trust domain.
func (k *SigningKeys) Tokens(issuer string) *TokenSigner {
	return &TokenSigner{issuer: issuer, keys: k.tokenKeys, now: k.now}
}

func tokenSigner(key ed25519.PrivateKey) (jose.Signer, error) {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: key}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return nil, fmt.Errorf("token signer: %w", err)
	}
	return signer, nil
}

const audience = "stella-agent"

type wireClaims struct {
	Tenant   string            `json:"tenant"`
	TaskID   string            `json:"task,omitempty"`
	TargetID string            `json:"target,omitempty"`
	Attempt  int64             `json:"attempt,omitempty"`
	Confirm  map[string]string `json:"cnf"`
}

// AgentToken makes a token for all of an agent's task endpoints.
func (s *TokenSigner) AgentToken(tenant, agentID, certFingerprint string, life time.Duration) (string, error) {
	return s.sign(AgentClaims{Tenant: tenant, AgentID: agentID, CertFingerprint: certFingerprint, Expires: s.now().Add(life)})
}

// TaskToken makes a token for one attempt at one task.
func (s *TokenSigner) TaskToken(tenant, agentID, certFingerprint, taskID, targetID string, attempt int64, until time.Time) (string, error) {
	return s.sign(AgentClaims{
		Tenant: tenant, AgentID: agentID, CertFingerprint: certFingerprint,
		TaskID: taskID, TargetID: targetID, Attempt: attempt, Expires: until,
	})
}

func (s *TokenSigner) sign(c AgentClaims) (string, error) {
	x5t, err := thumbprint(c.CertFingerprint)
	if err != nil {
		return "", err
	}
	now := s.now()
	signer, _ := s.keys()
	token, err := jwt.Signed(signer).
		Claims(jwt.Claims{
			Issuer: s.issuer, Subject: c.AgentID, Audience: jwt.Audience{audience},
			IssuedAt: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(c.Expires),
		}).
		Claims(wireClaims{
			Tenant: c.Tenant, TaskID: c.TaskID, TargetID: c.TargetID, Attempt: c.Attempt,
			Confirm: map[string]string{"x5t#S256": x5t},
		}).Serialize()
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	return token, nil
}

// Verify checks a token's signature, times, and that it belongs to the
// certificate, and returns what it says. Only EdDSA is taken, whatever the
// token's own header asks for.
func (s *TokenSigner) Verify(token, certFingerprint string) (*AgentClaims, error) {
	// The library takes white space out first; RFC 7515 (section 5.2) allows none,
	// and one token is to have one form.
	if strings.ContainsFunc(token, foreign) {
		return nil, errors.New("parse token: it has characters in it that no token has")
	}
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil {
		return nil, fmt.Errorf("parse token: %w", err)
	}
	var std jwt.Claims
	var own wireClaims
	_, keys := s.keys()
	for _, key := range keys {
		if err = parsed.Claims(key, &std, &own); err == nil {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("check token: %w", err)
	}
	if err := std.ValidateWithLeeway(jwt.Expected{Issuer: s.issuer, AnyAudience: jwt.Audience{audience}, Time: s.now()}, 0); err != nil {
		return nil, fmt.Errorf("check token: %w", err)
	}
	x5t, err := thumbprint(certFingerprint)
	if err != nil {
		return nil, err
	}
	if std.Expiry == nil || own.Confirm["x5t#S256"] != x5t {
		return nil, errors.New("check token: it belongs to another certificate")
	}
	return &AgentClaims{
		Tenant: own.Tenant, AgentID: std.Subject, CertFingerprint: certFingerprint,
		TaskID: own.TaskID, TargetID: own.TargetID, Attempt: own.Attempt, Expires: std.Expiry.Time(),
	}, nil
}

// foreign reports characters that are neither base64url's nor the dots between a
// token's parts.
func foreign(r rune) bool {
	return r != '.' && r != '-' && r != '_' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
}

func thumbprint(fingerprint string) (string, error) {
	raw, err := hex.DecodeString(fingerprint)
	if err != nil || len(raw) != 32 {
		return "", fmt.Errorf("certificate fingerprint %q is no SHA-256 in hex", fingerprint)
	}
	return base64.RawURLEncoding.EncodeToString(raw), nil
}
