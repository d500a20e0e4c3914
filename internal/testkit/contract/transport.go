package contract

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Transport passes requests on and reports whatever goes over the wire that
// the document does not describe: operations, parameters, fields, statuses,
// kinds of content, codes of problems. It is safe for concurrent use.
type Transport struct {
	Document *Document
	Base     http.RoundTripper
	// Report is told each breach; it may be called from any goroutine.
	Report func(format string, args ...any)

	mu     sync.Mutex
	driven map[string][]int
}

var _ http.RoundTripper = (*Transport)(nil)

type carelessKey struct{}

// Careless marks requests that are wrong on purpose: they are not checked,
// their answers are.
func Careless(ctx context.Context) context.Context {
	return context.WithValue(ctx, carelessKey{}, true)
}

// Driven returns the statuses that each operation has answered with.
func (t *Transport) Driven() map[string][]int {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := map[string][]int{}
	for id, statuses := range t.driven {
		out[id] = slices.Clone(statuses)
	}
	return out
}

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	op := t.Document.Find(r.Method, r.URL.EscapedPath())
	if op == nil {
		t.Report("%s %s: there is no such operation in the document", r.Method, r.URL.Path)
		return t.Base.RoundTrip(r)
	}
	if r.Context().Value(carelessKey{}) == nil {
		if err := op.checkRequest(r); err != nil {
			t.Report("%s: the request: %v", op.ID, err)
		}
	}
	res, err := t.Base.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	if t.driven == nil {
		t.driven = map[string][]int{}
	}
	t.driven[op.ID] = append(t.driven[op.ID], res.StatusCode)
	t.mu.Unlock()
	if err := t.checkAnswer(op, res); err != nil {
		t.Report("%s: the answer %d: %v", op.ID, res.StatusCode, err)
	}
	return res, nil
}

func (op *Operation) checkRequest(r *http.Request) error {
	for name, values := range r.URL.Query() {
		p := op.params["query "+name]
		if p == nil {
			return fmt.Errorf("the parameter %s is not described", name)
		}
		if err := p.check(values); err != nil {
			return fmt.Errorf("the parameter %s: %w", name, err)
		}
	}
	for name := range r.Header {
		if strings.HasPrefix(name, "X-") && op.params["header "+name] == nil && name != "X-Stella-Protocol-Version" {
			return fmt.Errorf("the header %s is not described", name)
		}
	}
	for key, p := range op.params {
		in, name, _ := strings.Cut(key, " ")
		if p.required && (in == "query" && !r.URL.Query().Has(name) || in == "header" && r.Header.Get(name) == "") {
			return fmt.Errorf("the %s %s is missing", in, name)
		}
	}
	var data []byte
	if r.Body != nil {
		var err error
		if data, err = io.ReadAll(r.Body); err != nil {
			return err
		}
		_ = r.Body.Close() // it was read to its end
		r.Body = io.NopCloser(bytes.NewReader(data))
	}
	switch {
	case op.body == nil && len(data) > 0:
		return errors.New("it has a body, and none is described")
	case op.body != nil && len(data) > 0:
		if !strings.HasSuffix(op.body.kind, "json") {
			if kind := r.Header.Get("Content-Type"); kind != op.body.kind {
				return fmt.Errorf("its body is %q and not %s", kind, op.body.kind)
			}
			return op.body.schema.Validate(string(data))
		}
		return check(op.body.schema, data)
	case op.body != nil && op.body.required:
		return errors.New("it has no body")
	}
	return nil
}

// check checks the values of a parameter, which are text, by its schema.
func (p *param) check(values []string) error {
	try := func(text string) error {
		err := p.schema.Validate(text)
		if err != nil { // it may be a number or a boolean
			if v, parseErr := jsonschema.UnmarshalJSON(strings.NewReader(text)); parseErr == nil {
				err = p.schema.Validate(v)
			}
		}
		return err
	}
	if len(values) == 1 && try(values[0]) == nil {
		return nil
	}
	list := make([]any, len(values))
	for i, v := range values {
		list[i] = v
	}
	return p.schema.Validate(list)
}

func (t *Transport) checkAnswer(op *Operation, res *http.Response) error {
	a := op.answers[res.StatusCode]
	if a == nil {
		return errors.New("this status is not described")
	}
	if res.StatusCode == http.StatusSwitchingProtocols {
		return nil
	}
	kind, _, err := mime.ParseMediaType(res.Header.Get("Content-Type"))
	if err != nil {
		return err
	}
	m := a.media[kind]
	if m == nil {
		return fmt.Errorf("content of the kind %s is not described", kind)
	}
	if m.item != nil {
		res.Body = &streamBody{ReadCloser: res.Body, line: func(line string) {
			if item, ok := streamItem(kind, line); ok {
				if err := check(m.item, []byte(item)); err != nil {
					t.Report("%s: the stream's item %s: %v", op.ID, item, err)
				}
			}
		}}
		return nil
	}
	data, err := io.ReadAll(res.Body)
	_ = res.Body.Close() // it was read to its end
	res.Body = io.NopCloser(bytes.NewReader(data))
	if err != nil {
		return err
	}
	if !strings.HasSuffix(kind, "json") {
		return m.schema.Validate(string(data))
	}
	if err := check(m.schema, data); err != nil {
		return fmt.Errorf("%s: %w", data, err)
	}
	if res.StatusCode >= 400 {
		return a.checkProblem(res.StatusCode, data)
	}
	return nil
}

func (a *answer) checkProblem(status int, data []byte) error {
	var p struct {
		Status       int
		Code, Detail string
	}
	if err := json.Unmarshal(data, &p); err != nil {
		return err
	}
	if p.Status != status || p.Detail == "" || !slices.Contains(a.codes, p.Code) {
		return fmt.Errorf("the code %s is not among %v, or the problem is not whole: %s %s", p.Code, a.codes, strconv.Itoa(p.Status), p.Detail)
	}
	return nil
}

// streamBody tells each whole line that is read.
type streamBody struct {
	io.ReadCloser
	rest []byte
	line func(string)
}

// Read implements io.Reader.
func (s *streamBody) Read(p []byte) (int, error) {
	n, err := s.ReadCloser.Read(p)
	s.rest = append(s.rest, p[:n]...)
	for {
		line, rest, ok := bytes.Cut(s.rest, []byte("\n"))
		if !ok {
			return n, err
		}
		s.line(string(line))
		s.rest = rest
	}
}
