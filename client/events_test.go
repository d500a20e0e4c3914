package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"stella-ops.org/stella/api"
)

// telling answers each connection with a text of its own, and then ends it.
func telling(t *testing.T, texts ...string) *Client {
	t.Helper()
	var n atomic.Int64
	return newTestClient(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i := int(n.Add(1)) - 1
		if i == len(texts) {
			<-r.Context().Done()
			return
		}
		if texts[i] == "refuse" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, texts[i])
	}))
}

// heard follows until something ends it, and notes all that it is told.
func heard(ctx context.Context, c *Client, most int) (notes []string, last error) {
	f := EventFilter{
		Connected: func() { notes = append(notes, "connected") },
		Lost:      func(err error) { notes = append(notes, fmt.Sprintf("lost, with an error: %v", err != nil)) },
	}
	events := 0
	for e, err := range c.Events(ctx, f) {
		if err != nil {
			return notes, err
		}
		notes = append(notes, e.Kind)
		if events++; events == most {
			return notes, nil
		}
	}
	return notes, nil
}

// What is lost is made again, and whoever follows hears of both.
func TestEventsGoOn(t *testing.T) {
	t.Parallel()
	c := telling(t, ": hello\n\nid: 1\nevent: a\ndata: {\"id\":1,\"kind\":\"a\"}\n\n", "", "data: {\"kind\":\"cut o", "data:{\"kind\":\"b\"}\n\ndata: {\"kind\":\"c\"}\n\n")
	notes, err := heard(t.Context(), c, 3)
	want := []string{
		"connected", "a", "lost, with an error: false", "connected", "lost, with an error: false",
		"connected", "lost, with an error: true", "connected", "b", "c",
	}
	if diff := cmp.Diff(want, notes); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
}

// What trying again does not mend ends it.
func TestEventsEnd(t *testing.T) {
	t.Parallel()
	notes, err := heard(t.Context(), telling(t, "refuse"), 1)
	var p *api.Problem
	if !errors.As(err, &p) || p.Status != http.StatusForbidden || len(notes) > 0 {
		t.Errorf("%v, %v", notes, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	c := telling(t)
	cancel()
	if notes, err = heard(ctx, c, 1); !errors.Is(err, context.Canceled) || len(notes) > 0 {
		t.Errorf("%v, %v", notes, err)
	}
}
