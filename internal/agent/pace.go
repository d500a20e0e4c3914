package agent

import (
	"cmp"
	"time"
)

// Pace is how long an agent waits and holds on before it changes the carrier of
// its link. Zeros stand for what is good where proxies and firewalls are.
type Pace struct {
	// Handshake is how long a connection may take to come about.
	Handshake time.Duration
	// LesserFirst is for how long a lesser carrier is used, the first time,
	// before the better ones are tried again.
	LesserFirst time.Duration
	// Steady is how long a connection must stand for its carrier to count as
	// one that gets through: some proxies let a stream begin, and then break it.
	Steady time.Duration
}

func (p Pace) handshake() time.Duration   { return cmp.Or(p.Handshake, 10*time.Second) }
func (p Pace) lesserFirst() time.Duration { return cmp.Or(p.LesserFirst, 10*time.Second) }
func (p Pace) steady() time.Duration      { return cmp.Or(p.Steady, time.Minute) }
