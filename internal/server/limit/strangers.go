// Package limit bounds what strangers may ask of a server: how many requests
// without any identity, how many refused tokens and certificates, and how many
// connections that do not finish their TLS handshake.
//
// It knows no API and no store. Who is known, its callers decide: whoever
// proves an identity is never limited by the address that the proof comes from.
package limit

import (
	"fmt"
	"math"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"stella-ops.org/stella/internal/fault"
)

// Rate is how often something may happen: Burst times at once, and PerSecond
// times a second from then on. A zero PerSecond is without a limit.
type Rate struct {
	PerSecond float64
	Burst     int
}

// PerMinute is a rate of n times a minute.
func PerMinute(n, burst int) Rate { return Rate{PerSecond: float64(n) / 60, Burst: burst} }

// Options says how much each address may ask.
type Options struct {
	// Refused is for tokens and certificates that are refused.
	Refused Rate
	// Anonymous is for requests that show nothing.
	Anonymous Rate
	// Addresses is how many addresses are remembered, those that asked last; 0
	// is MaxAddresses.
	Addresses int
}

// MaxAddresses is how many addresses are remembered of each kind: a few
// megabytes, whoever calls from wherever.
const MaxAddresses = 1 << 16

// Strangers limits callers who have not proved who they are, by their address.
// Its methods do not block, and may be called at the same time. A nil one
// limits nobody.
type Strangers struct {
	refused   *buckets
	anonymous *buckets
	now       func() time.Time

	// How many requests were over each of the two.
	overRefused, overAnonymous atomic.Int64
}

// NewStrangers returns a limit without any history.
func NewStrangers(o Options, now func() time.Time) *Strangers {
	if o.Addresses == 0 {
		o.Addresses = MaxAddresses
	}
	return &Strangers{refused: newBuckets(o.Refused, o.Addresses), anonymous: newBuckets(o.Anonymous, o.Addresses), now: now}
}

// Refused counts one refused token or certificate of a caller, an address with
// or without a port. It returns nil while the caller may be told why it is
// refused, and a fault of kind RateLimited (RFC 6585, section 4) beyond that.
//
// A fault changes what the caller hears, never whether it gets in: its next
// token is looked at all the same, for behind one address there may be many,
// and good ones among them.
func (s *Strangers) Refused(caller string) error {
	if s == nil {
		return nil
	}
	wait := s.refused.take(key(caller), s.now())
	if wait == 0 {
		return nil
	}
	s.overRefused.Add(1)
	return tooMany(wait, "too many tokens or certificates of this address were refused")
}

// Anonymous counts one request of a caller that shows nothing. It returns nil
// while the request may be answered, and a fault of kind RateLimited beyond
// that.
func (s *Strangers) Anonymous(caller string) error {
	if s == nil {
		return nil
	}
	wait := s.anonymous.take(key(caller), s.now())
	if wait == 0 {
		return nil
	}
	s.overAnonymous.Add(1)
	return tooMany(wait, "too many requests of this address came without a token or a certificate")
}

// Exhausted reports whether Refused would return a fault now. It counts
// nothing.
func (s *Strangers) Exhausted(caller string) bool {
	return s != nil && s.refused.empty(key(caller), s.now())
}

// TurnedAway is how many requests were over each limit since the server started:
// that of refused tokens and certificates, and that of requests that show
// nothing.
func (s *Strangers) TurnedAway() (refused, anonymous int64) {
	if s == nil {
		return 0, 0
	}
	return s.overRefused.Load(), s.overAnonymous.Load()
}

func tooMany(wait time.Duration, what string) error {
	f := fault.New(fault.RateLimited, "rate_limited", "%s: try again in %d s, or show a valid one", what, seconds(wait))
	f.RetryAfter = time.Duration(seconds(wait)) * time.Second
	return f
}

// seconds is a wait in whole seconds, as the header Retry-After has it (RFC
// 9110, section 10.2.3), and never less than the wait.
func seconds(wait time.Duration) int64 { return max(1, int64(math.Ceil(wait.Seconds()))) }

// key is what is counted under: an IPv4 address, or the /64 of an IPv6 one, of
// which one host has as many addresses as it likes. What is no address, such as
// an agent's id, stands for itself.
func key(caller string) string {
	addr, err := netip.ParseAddr(caller)
	if err != nil {
		withPort, err := netip.ParseAddrPort(caller)
		if err != nil {
			return caller
		}
		addr = withPort.Addr()
	}
	addr = addr.Unmap().WithZone("")
	if addr.Is4() {
		return addr.String()
	}
	prefix, err := addr.Prefix(64)
	if err != nil {
		panic(fmt.Sprintf("limit: an IPv6 address without 64 bits: %v", err)) // there is none
	}
	return prefix.String()
}

// limiter returns the bucket of a caller that was not seen before.
func (r Rate) limiter() *rate.Limiter {
	return rate.NewLimiter(rate.Limit(r.PerSecond), max(1, r.Burst))
}
