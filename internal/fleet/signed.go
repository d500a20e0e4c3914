package fleet

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
)

// Number says where something stands in the order of all that an agent ever
// signed: Boot counts the agent's starts, Number what it signed since. The zero
// value is of what is not signed.
type Number struct{ Boot, Number int64 }

// Compare orders numbers.
func (n Number) Compare(o Number) int {
	return cmp.Or(cmp.Compare(n.Boot, o.Boot), cmp.Compare(n.Number, o.Number))
}

// ParseNumber reads what api.SignatureNonce wrote.
func ParseNumber(nonce string) (Number, error) {
	boot, number, _ := strings.Cut(nonce, ".")
	n := Number{}
	var err1, err2 error
	n.Boot, err1 = strconv.ParseInt(boot, 10, 64)
	n.Number, err2 = strconv.ParseInt(number, 10, 64)
	if err1 != nil || err2 != nil || n.check() != nil || api.SignatureNonce(n.Boot, n.Number) != nonce {
		return Number{}, fmt.Errorf("the nonce %q is not a boot and a number: give both in decimal, from 1 on, with a dot in between, as in 7.42", clip(nonce))
	}
	return n, nil
}

func (n Number) check() error {
	if n.Boot < 1 || n.Number < 1 {
		return fmt.Errorf("boot %d and number %d: both are from 1 on", n.Boot, n.Number)
	}
	return nil
}

// OldNumber is the cause of a refusal: the agent is known by a number that is
// as high as the one that it gave, or higher.
type OldNumber struct{ Known, Given Number }

// Error implements error.
func (e *OldNumber) Error() string {
	return fmt.Sprintf("boot %d number %d is known, boot %d number %d was given", e.Known.Boot, e.Known.Number, e.Given.Boot, e.Given.Number)
}

// MustSign returns the refusal of what an agent says unsigned, if it is to be
// refused: the agent signs, or the installation hears nobody else. what it is
// stands in the refusal.
func (a *Agent) MustSign(required bool, what string) error {
	switch {
	case a.SignsHeartbeats:
		return fault.New(fault.Unauthenticated, api.CodeHeartbeatUnsigned,
			"agent %s is registered as one that signs its heartbeats, and this %s is not signed: sign it (docs/protocol.md, Signed heartbeats), or register the agent anew with a new token as one that does not", a.ID, what)
	case required:
		return fault.New(fault.Unauthenticated, api.CodeHeartbeatUnsigned,
			"this server hears only what is signed (require-signed-heartbeats), and this %s of agent %s is not: sign it (docs/protocol.md, Signed heartbeats)", what, a.ID)
	}
	return nil
}

// numbersKeptFor is for how long a server remembers a number by itself at the
// least: after it is stored, and until nobody looks at what was read before.
const numbersKeptFor = time.Minute

// numbers are the highest that were heard here lately. The store has those
// before, and an agent that is let in is read from it; so they need to be kept
// for no longer than it takes until everybody sees what was stored. There are
// two generations, of which the older one goes.
type numbers struct {
	recent, before map[string]Number // by tenant and agent
	since          time.Time         // when recent was begun
}

func (n *numbers) known(key string) Number {
	if k, ok := n.recent[key]; ok {
		return k
	}
	return n.before[key]
}

func (n *numbers) note(key string, to Number) {
	if n.recent == nil {
		n.recent = map[string]Number{}
	}
	n.recent[key] = to
}

// stored says that the store has all that was noted until now.
func (n *numbers) stored(now time.Time) {
	if now.Sub(n.since) < numbersKeptFor {
		return
	}
	n.recent, n.before, n.since = make(map[string]Number, len(n.recent)), n.recent, now
}

// Number takes the number of something that an agent has signed, whose signature
// was verified: each is good once, and none after a higher one. What the store
// knows is the agent's, as it was read for this very request. A number that is
// refused is a fault whose cause is an OldNumber.
//
// Servers learn of each other's numbers by the store, a second later. What is
// replayed to another server within it is heard there, and changes nothing: it
// says what was true a second ago, and the store passes over what comes before
// what it has.
func (m *Monitor) Number(a *Agent, n Number) error {
	if err := n.check(); err != nil {
		return fault.Wrap(err, fault.Invalid, "number_malformed", err.Error())
	}
	key := a.key()
	m.mu.Lock()
	defer m.mu.Unlock()
	known := m.numbers.known(key)
	if known.Compare(a.Signed) < 0 {
		known = a.Signed
	}
	if n.Compare(known) <= 0 {
		return fault.Wrap(&OldNumber{Known: known, Given: n}, fault.Unauthenticated, api.CodeNumberRefused, fmt.Sprintf(
			"agent %s was heard up to boot %d, number %d, and this is boot %d, number %d: it was heard already, or comes too late; an agent that has lost count goes on with a boot above %d",
			a.ID, known.Boot, known.Number, n.Boot, n.Number, known.Boot))
	}
	m.numbers.note(key, n)
	return nil
}
