package agent

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"stella-ops.org/stella/api"
)

// chain makes keys of which each vouches for the next.
func chain(t *testing.T, seeds ...byte) (servers []*wrapper, published *api.ServerKeys) {
	t.Helper()
	published = &api.ServerKeys{}
	for i, seed := range seeds {
		w := newWrapper(t, seed)
		k := api.ServerKey{PublicKey: w.public, From: time.Unix(int64(i), 0).UTC()}
		if i > 0 {
			k.Signature = servers[i-1].Sign(api.PurposeServerKey, api.ServerKeyText(raw(t, w.public), k.From))
		}
		servers = append(servers, w)
		published.Keys = append(published.Keys, k)
	}
	return servers, published
}

func raw(t *testing.T, publicKey string) ed25519.PublicKey {
	t.Helper()
	key, err := base64.StdEncoding.DecodeString(publicKey)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newTestKeys(t *testing.T, known string, published *api.ServerKeys) (k *serverKeys, asked *int, kept *string) {
	t.Helper()
	k, err := newServerKeys(known, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	asked, kept = new(int), new(string)
	k.fetch = func(context.Context) (*api.ServerKeys, error) {
		*asked++
		if published == nil {
			return nil, errors.New("no route to host")
		}
		return published, nil
	}
	k.keep = func(publicKey string) error { *kept = publicKey; return nil }
	return k, asked, kept
}

func checks(t *testing.T, k *serverKeys, w *wrapper) error {
	t.Helper()
	return k.verify(t.Context(), api.PurposeTask, []byte("a task"), w.Sign(api.PurposeTask, []byte("a task")))
}

// An agent that was away for several rotations follows from the key that it
// knows, and goes back to none.
func TestServerKeysAreFollowed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		servers, published := chain(t, 1, 2, 3, 4)
		k, asked, kept := newTestKeys(t, servers[0].public, published)
		if err := checks(t, k, servers[0]); err != nil || *asked != 0 {
			t.Errorf("the key of the registration: %v, asked %d", err, *asked)
		}
		if err := checks(t, k, servers[2]); err != nil || *asked != 1 || *kept != servers[2].public {
			t.Errorf("two keys on: %v, asked %d", err, *asked)
		}
		// Another server may not have taken it up yet.
		if err := checks(t, k, servers[0]); err != nil {
			t.Errorf("the key before, soon: %v", err)
		}
		if err := checks(t, k, servers[1]); err == nil {
			t.Error("a key that was passed over is taken")
		}
		time.Sleep(beforeGoodFor) //nolint:forbidigo // in a bubble
		if err := checks(t, k, servers[0]); err == nil {
			t.Error("the key before is taken for ever")
		}
		if err := checks(t, k, servers[3]); err != nil || *kept != servers[3].public {
			t.Errorf("the last: %v", err)
		}
	})
}

// Who is not vouched for by the key that the agent knows is not its server.
func TestServerKeysOfStrangers(t *testing.T) {
	t.Parallel()
	for what, change := range map[string]func(stranger *wrapper, p *api.ServerKeys){
		"a key without a signature": func(stranger *wrapper, p *api.ServerKeys) {
			p.Keys = append(p.Keys, api.ServerKey{PublicKey: stranger.public})
		},
		"a key that vouches for itself": func(stranger *wrapper, p *api.ServerKeys) {
			p.Keys = append(p.Keys, api.ServerKey{PublicKey: stranger.public, Signature: stranger.Sign(api.PurposeServerKey, api.ServerKeyText(raw(t, stranger.public), time.Time{}))})
		},
		"a signature on another time": func(stranger *wrapper, p *api.ServerKeys) {
			at := time.Unix(9, 0).UTC()
			p.Keys = append(p.Keys, api.ServerKey{PublicKey: stranger.public, From: at, Signature: newWrapper(t, 1).Sign(api.PurposeServerKey, api.ServerKeyText(raw(t, stranger.public), at.Add(time.Second)))})
		},
		"a signature on a task": func(stranger *wrapper, p *api.ServerKeys) {
			p.Keys = append(p.Keys, api.ServerKey{PublicKey: stranger.public, Signature: newWrapper(t, 1).Sign(api.PurposeTask, api.ServerKeyText(raw(t, stranger.public), time.Time{}))})
		},
		"a chain that begins elsewhere": func(_ *wrapper, p *api.ServerKeys) {
			_, elsewhere := chain(t, 7, 9)
			*p = *elsewhere
		},
		"a link that is missing": func(_ *wrapper, p *api.ServerKeys) {
			_, all := chain(t, 1, 2, 9)
			p.Keys = append(all.Keys[:1:1], all.Keys[2])
		},
		"nonsense before it": func(_ *wrapper, p *api.ServerKeys) {
			_, all := chain(t, 1, 9)
			p.Keys = append([]api.ServerKey{all.Keys[0], {PublicKey: "?"}}, all.Keys[1:]...)
		},
		"no keys": func(_ *wrapper, p *api.ServerKeys) { p.Keys = nil },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			_, published := chain(t, 1)
			stranger := newWrapper(t, 9)
			change(stranger, published)
			k, asked, kept := newTestKeys(t, newWrapper(t, 1).public, published)
			for range 3 {
				if err := checks(t, k, stranger); err == nil || errors.Is(err, errKeysAway) || !strings.Contains(err.Error(), "is not the server's") {
					t.Errorf("%v", err)
				}
			}
			if *kept != "" || *asked != 1 {
				t.Errorf("it kept %q and asked %d times", *kept, *asked)
			}
		})
	}
}

// A task that cannot be judged is no task that failed: the link is made anew,
// and it comes again.
func TestServerKeysAway(t *testing.T) {
	t.Parallel()
	servers, published := chain(t, 1, 2)
	u := newTestUnwrapper(t, servers[0])
	k, _, _ := newTestKeys(t, servers[0].public, nil)
	u.server = k
	data, signature := servers[1].wrap(aTask("t1"), "agent-1", u.keys.public())
	if got, err := u.task(t.Context(), data, signature); got != nil || !errors.Is(err, errKeysAway) {
		t.Errorf("a task: %v, %v", got, err)
	}
	if got, err := u.command(t.Context(), servers[1].order("agent-1")); got != nil || !errors.Is(err, errKeysAway) {
		t.Errorf("a command: %v, %v", got, err)
	}
	k.fetch = func(context.Context) (*api.ServerKeys, error) { return published, nil }
	if got, err := u.task(t.Context(), data, signature); err != nil || got.ID != "t1" {
		t.Errorf("when it is there again: %v, %v", got, err)
	}
}

// order makes what the server would send of a command that is for an agent.
func (w *wrapper) order(agentID string) []byte {
	w.t.Helper()
	at := time.Date(2026, 11, 21, 12, 0, 0, 120_000_000, time.UTC)
	c := &api.AgentCommand{ID: "c1", Type: "doctor", Payload: json.RawMessage(`{"a":"<1>"}`), CreatedAt: at, ExpiresAt: at.Add(time.Minute)}
	c.Signature = w.Sign(api.PurposeCommand, api.CommandText(agentID, c))
	data, err := json.Marshal(c)
	if err != nil {
		w.t.Fatal(err)
	}
	return []byte(strings.NewReplacer(`\u003c`, "<", `\u003e`, ">").Replace(string(data)))
}

func TestUnwrapCommand(t *testing.T) {
	t.Parallel()
	w := newWrapper(t, 1)
	u := newTestUnwrapper(t, w)
	good := w.order("agent-1")
	c, err := u.command(t.Context(), good)
	if err != nil || c.ID != "c1" || string(c.Payload) != `{"a":"<1>"}` || c.Signature != nil {
		t.Fatalf("%+v, %v", c, err)
	}
	replaced := func(old, anew string) []byte { return []byte(strings.Replace(string(good), old, anew, 1)) }
	for what, data := range map[string][]byte{
		"another id":         replaced(`"id":"c1"`, `"id":"c2"`),
		"another type":       replaced(`doctor`, `doctos`),
		"another payload":    replaced(`<1>`, `<2>`),
		"no payload":         replaced(`"payload":{"a":"<1>"},`, ``),
		"made later":         replaced(`"createdAt":"2026-11-21T12:00:00.12Z"`, `"createdAt":"2026-11-21T12:00:00.13Z"`),
		"good for longer":    replaced(`12:01:00.12Z`, `13:01:00.12Z`),
		"not signed":         []byte(`{"id":"c1","type":"doctor"}`),
		"another agent's":    w.order("agent-2"),
		"somebody else's":    newWrapper(t, 2).order("agent-1"),
		"what does not read": replaced(`"type":"doctor"`, `"type":7`),
	} {
		if c, err := u.command(t.Context(), data); err == nil || c == nil || c.ID == "" {
			t.Errorf("%s: %+v, %v", what, c, err)
		}
	}
	if c, err := u.command(t.Context(), []byte(`[]`)); c != nil || err == nil {
		t.Errorf("no command at all: %+v, %v", c, err)
	}
}
