package httpsig

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"

	"github.com/dunglas/httpsfv"
)

// SetDigest sets the header Content-Digest of a request with a body.
func SetDigest(header http.Header, body []byte) {
	sum := sha256.Sum256(body)
	header.Set(headerDigest, "sha-256=:"+base64.StdEncoding.EncodeToString(sum[:])+":")
}

// CheckDigest checks that a body has the SHA-256 that its header names. Digests
// of other algorithms are passed over (RFC 9530, section 2).
func CheckDigest(header http.Header, body []byte) error {
	digests, err := httpsfv.UnmarshalDictionary(header.Values(headerDigest))
	if err != nil {
		return fmt.Errorf("%s: %w", headerDigest, err)
	}
	member, _ := digests.Get("sha-256")
	item, _ := member.(httpsfv.Item)
	want, ok := item.Value.([]byte)
	if !ok {
		return errors.New(headerDigest + ": it has no sha-256, as bytes between colons")
	}
	if sum := sha256.Sum256(body); !bytes.Equal(sum[:], want) {
		return errors.New(headerDigest + ": the body has another SHA-256: it was altered")
	}
	return nil
}
