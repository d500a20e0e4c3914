package httpsig

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
)

// Algorithm returns the name of the algorithm that a key signs with, from the
// registry of RFC 9421 (section 6.2). Each kind of key has one.
func Algorithm(key crypto.PublicKey) (string, error) {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return "ecdsa-p256-sha256", nil
		case elliptic.P384():
			return "ecdsa-p384-sha384", nil
		}
	case ed25519.PublicKey:
		return "ed25519", nil
	case *rsa.PublicKey:
		return "rsa-pss-sha512", nil
	}
	return "", fmt.Errorf("a key of the kind %T signs no messages here: use ECDSA P-256 or P-384, Ed25519, or RSA", key)
}

// SignText signs a text with the algorithm of the key (RFC 9421, section 3.3). An
// ECDSA signature is r and s, each as long as the curve's field.
func SignText(key crypto.Signer, text []byte) ([]byte, error) {
	var signature []byte
	var err error
	switch k := key.Public().(type) {
	case *ecdsa.PublicKey:
		hash, digest := ecdsaDigest(k, text)
		if signature, err = key.Sign(rand.Reader, digest, hash); err == nil {
			signature, err = rawECDSA(k, signature)
		}
	case ed25519.PublicKey:
		signature, err = key.Sign(rand.Reader, text, crypto.Hash(0))
	case *rsa.PublicKey:
		digest := sha512.Sum512(text)
		signature, err = key.Sign(rand.Reader, digest[:], pss)
	default:
		_, err = Algorithm(k)
	}
	if err != nil {
		return nil, fmt.Errorf("sign with the agent's key: %w", err)
	}
	return signature, nil
}

var pss = &rsa.PSSOptions{SaltLength: 64, Hash: crypto.SHA512}

var errWrong = errors.New("it does not fit: what is signed was altered, or somebody else signed it")

// VerifyText checks a signature that SignText made.
func VerifyText(key crypto.PublicKey, text, signature []byte) error {
	good := false
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		_, digest := ecdsaDigest(k, text)
		size := fieldSize(k)
		good = len(signature) == 2*size &&
			ecdsa.Verify(k, digest, new(big.Int).SetBytes(signature[:size]), new(big.Int).SetBytes(signature[size:]))
	case ed25519.PublicKey:
		good = ed25519.Verify(k, text, signature)
	case *rsa.PublicKey:
		digest := sha512.Sum512(text)
		good = rsa.VerifyPSS(k, crypto.SHA512, digest[:], signature, pss) == nil
	default:
		_, err := Algorithm(k)
		return err
	}
	if !good {
		return errWrong
	}
	return nil
}

func fieldSize(k *ecdsa.PublicKey) int { return (k.Curve.Params().BitSize + 7) / 8 }

func ecdsaDigest(k *ecdsa.PublicKey, text []byte) (crypto.Hash, []byte) {
	if k.Curve == elliptic.P384() {
		sum := sha512.Sum384(text)
		return crypto.SHA384, sum[:]
	}
	sum := sha256.Sum256(text)
	return crypto.SHA256, sum[:]
}

// rawECDSA takes a signature out of its DER.
func rawECDSA(k *ecdsa.PublicKey, der []byte) ([]byte, error) {
	var v struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &v); err != nil {
		return nil, err
	}
	size := fieldSize(k)
	out := make([]byte, 2*size)
	v.R.FillBytes(out[:size])
	v.S.FillBytes(out[size:])
	return out, nil
}
