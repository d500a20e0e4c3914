package fault_test

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"stella-ops.org/stella/internal/fault"
)

func TestFaultInAChain(t *testing.T) {
	t.Parallel()
	f := fault.Wrap(io.ErrUnexpectedEOF, fault.Unavailable, "store_unavailable", "try again")
	wrapped := fmt.Errorf("read agent: %w", fmt.Errorf("agent a: %w", f))
	joined := errors.Join(errors.New("other"), wrapped)
	for _, err := range []error{f, wrapped, joined} {
		if fault.As(err) != f || fault.KindOf(err) != fault.Unavailable || fault.CodeOf(err) != "store_unavailable" {
			t.Errorf("%v: %v, %d, %s", err, fault.As(err), fault.KindOf(err), fault.CodeOf(err))
		}
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%v has lost its cause", err)
		}
	}
	if f.Error() != "try again: unexpected EOF" {
		t.Errorf("for the log: %q", f)
	}
	for _, err := range []error{nil, io.EOF} {
		if fault.As(err) != nil || fault.KindOf(err) != fault.Internal || fault.CodeOf(err) != "internal" {
			t.Errorf("%v is a fault", err)
		}
	}
}

func TestInvalidField(t *testing.T) {
	t.Parallel()
	f := fault.InvalidField("body.name", "%q is taken", "a")
	if f.Kind != fault.Invalid || f.Message != `body.name: "a" is taken` || len(f.Fields) != 1 ||
		f.Fields[0] != (fault.Field{Location: "body.name", Message: `"a" is taken`}) {
		t.Errorf("%+v", f)
	}
}
