// Package httpsig signs HTTP requests and verifies their signatures (RFC 9421),
// with the digest of the body among what is signed (RFC 9530).
//
// It has what heartbeats need, and that strictly: derived components @method and
// @path, whole header fields without parameters, and the algorithms of the keys
// that certificates are issued for. Who may sign, what has to be covered and what
// a nonce means is the caller's to say.
package httpsig

import (
	"crypto"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/dunglas/httpsfv"
)

// The headers of a signature.
const (
	headerInput     = "Signature-Input"
	headerSignature = "Signature"
	headerDigest    = "Content-Digest"
)

// label names our signature among those of a message; it means nothing.
const label = "sig"

// Message is a request as far as a signature can cover it.
type Message struct {
	Method string
	// Path is as it stands in the request, with its percent-encoding.
	Path   string
	Header http.Header
}

// Params are what a signature says of itself (RFC 9421, section 2.3). All of them
// are there in every signature.
type Params struct {
	Created int64 // in seconds since 1970
	KeyID   string
	Alg     string // Sign sets it, by the key
	Nonce   string
	Tag     string
}

// Signature is a signature that a message carries.
type Signature struct {
	Params
	// Components are what it covers, each once, in the order of the signature.
	Components []string

	input httpsfv.InnerList
	value []byte
}

// Sign signs components of a message, and sets its headers Signature-Input and
// Signature. A component that the message does not have is an error.
func Sign(m Message, components []string, p Params, key crypto.Signer) error {
	var err error
	if p.Alg, err = Algorithm(key.Public()); err != nil {
		return err
	}
	input := httpsfv.InnerList{Params: httpsfv.NewParams()}
	for _, c := range components {
		input.Items = append(input.Items, httpsfv.NewItem(c))
	}
	input.Params.Add("created", p.Created)
	for _, s := range []struct{ name, value string }{{"keyid", p.KeyID}, {"alg", p.Alg}, {"nonce", p.Nonce}, {"tag", p.Tag}} {
		input.Params.Add(s.name, s.value)
	}
	text, err := base(input, m.component)
	if err != nil {
		return err
	}
	value, err := SignText(key, text)
	if err != nil {
		return err
	}
	for name, member := range map[string]httpsfv.Member{headerInput: input, headerSignature: httpsfv.NewItem(value)} {
		d := httpsfv.NewDictionary()
		d.Add(label, member)
		out, err := httpsfv.Marshal(d)
		if err != nil {
			return fmt.Errorf("sign the request: %w", err)
		}
		m.Header.Set(name, out)
	}
	return nil
}

// Find returns the message's signature that has the tag; nil when none has. More
// than one is an error, and so is one that is not as Sign makes them.
func Find(header http.Header, tag string) (*Signature, error) {
	if len(header.Values(headerInput)) == 0 {
		return nil, nil
	}
	inputs, err := httpsfv.UnmarshalDictionary(header.Values(headerInput))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", headerInput, err)
	}
	var found *Signature
	for _, name := range inputs.Names() {
		member, _ := inputs.Get(name)
		input, ok := member.(httpsfv.InnerList)
		if !ok {
			return nil, fmt.Errorf("%s: %s is no list in parentheses", headerInput, name)
		}
		if t, _ := input.Params.Get("tag"); t != tag {
			continue // somebody else's, for something else
		}
		if found != nil {
			return nil, fmt.Errorf("%s: two signatures have the tag %q", headerInput, tag)
		}
		if found, err = parse(input); err != nil {
			return nil, fmt.Errorf("%s: %w", headerInput, err)
		}
		if found.value, err = valueOf(header, name); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// valueOf returns the bytes of the signature with a label.
func valueOf(header http.Header, name string) ([]byte, error) {
	values, err := httpsfv.UnmarshalDictionary(header.Values(headerSignature))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", headerSignature, err)
	}
	member, _ := values.Get(name)
	item, ok := member.(httpsfv.Item)
	value, isBytes := item.Value.([]byte)
	if !ok || !isBytes {
		return nil, fmt.Errorf("%s: it has no bytes for %s, between colons", headerSignature, name)
	}
	return value, nil
}

// parse reads what a signature covers, and what it says of itself.
func parse(input httpsfv.InnerList) (*Signature, error) {
	s := &Signature{input: input}
	for _, item := range input.Items {
		name, ok := item.Value.(string)
		if !ok || len(item.Params.Names()) > 0 || name != strings.ToLower(name) {
			return nil, errors.New("what it covers are not names in quotes, in lower case and without parameters")
		}
		s.Components = append(s.Components, name)
	}
	texts := map[string]*string{"keyid": &s.KeyID, "alg": &s.Alg, "nonce": &s.Nonce, "tag": &s.Tag}
	for _, name := range input.Params.Names() {
		value, _ := input.Params.Get(name)
		if name == "created" {
			created, ok := value.(int64)
			if !ok {
				return nil, errors.New("created is no whole number")
			}
			s.Created = created
			continue
		}
		into, known := texts[name]
		text, ok := value.(string)
		if !known || !ok {
			return nil, fmt.Errorf("the parameter %s is not known here, or no text in quotes", name)
		}
		*into = text
	}
	for _, name := range []string{"created", "keyid", "alg", "nonce", "tag"} {
		if _, ok := input.Params.Get(name); !ok {
			return nil, fmt.Errorf("the parameter %s is missing", name)
		}
	}
	return s, nil
}

// Verify checks a signature on a message by a public key. That the message's
// content is what its digest says is for CheckDigest.
func (s *Signature) Verify(m Message, key crypto.PublicKey) error {
	alg, err := Algorithm(key)
	if err != nil {
		return err
	}
	if s.Alg != alg {
		return fmt.Errorf("its alg is %q, and the key's is %q", s.Alg, alg)
	}
	text, err := base(s.input, m.component)
	if err != nil {
		return err
	}
	return VerifyText(key, text, s.value)
}

// component is the value of a component (RFC 9421, sections 2.1 and 2.2).
func (m Message) component(name string) (string, bool) {
	switch name {
	case "@method":
		return m.Method, true
	case "@path":
		return m.Path, m.Path != ""
	}
	values := m.Header.Values(name)
	if len(values) == 0 || strings.HasPrefix(name, "@") {
		return "", false
	}
	trimmed := make([]string, len(values))
	for i, v := range values {
		trimmed[i] = strings.TrimSpace(v)
	}
	return strings.Join(trimmed, ", "), true
}

// base is the text that a signature is on (RFC 9421, section 2.5).
func base(input httpsfv.InnerList, component func(name string) (string, bool)) ([]byte, error) {
	var out strings.Builder
	seen := map[string]bool{}
	for _, item := range input.Items {
		name, ok := item.Value.(string)
		if !ok || seen[name] {
			return nil, fmt.Errorf("it covers %v twice, or that is no name", item.Value)
		}
		seen[name] = true
		value, ok := component(name)
		if !ok || strings.ContainsAny(value, "\r\n") {
			return nil, fmt.Errorf("it covers %q, which the message does not have", name)
		}
		id, err := httpsfv.Marshal(item)
		if err != nil {
			return nil, err
		}
		out.WriteString(id)
		out.WriteString(": ")
		out.WriteString(value)
		out.WriteByte('\n')
	}
	params, err := httpsfv.Marshal(httpsfv.List{input})
	if err != nil {
		return nil, err
	}
	out.WriteString(`"@signature-params": `)
	out.WriteString(params)
	return []byte(out.String()), nil
}
