package access

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"strconv"
	"strings"
	"time"

	"stella-ops.org/stella/internal/fault"
)

// encodingVersion is the first byte of all that is hashed or sealed here. A
// line's encoding never changes: another one gets another version.
const encodingVersion = 1

// Mark names a line by its number and its hash. Who has written one down knows
// the whole log up to that line: no line before it can change without changing
// the hash.
type Mark struct {
	Seq  int64
	Hash []byte
}

// String writes a mark as ParseMark reads it: the number, a colon, and the hash
// in hexadecimal.
func (m Mark) String() string { return strconv.FormatInt(m.Seq, 10) + ":" + hex.EncodeToString(m.Hash) }

// ParseMark reads a mark; location names where it stood, for the fault that it
// returns for anything else.
func ParseMark(location, text string) (Mark, error) {
	number, sum, ok := strings.Cut(text, ":")
	seq, err := strconv.ParseInt(number, 10, 64)
	hash, hexErr := hex.DecodeString(sum)
	if !ok || err != nil || hexErr != nil || seq < 1 || len(hash) != sha256.Size {
		if len(text) > 100 {
			text = text[:100] + "…"
		}
		return Mark{}, fault.InvalidField(location, "%q is no line of the audit log: write its number, a colon and its hash of 64 hexadecimal digits, as `stella audit verify` prints them", text)
	}
	return Mark{Seq: seq, Hash: hash}, nil
}

// zeroHash stands before the first line of a chain.
func zeroHash() []byte { return make([]byte, sha256.Size) }

// Sum is the hash of a line, SHA-256 (FIPS 180-4) over one byte for the
// version of the encoding, 1, and these fields, each behind its length in bytes
// as 4 bytes, big-endian:
//
//	the hash of the line before, 32 bytes; zeros for the first line of a chain
//	tenant
//	number, 8 bytes, big-endian
//	time, microseconds since 1970 in UTC, 8 bytes, big-endian, two's complement
//	actor, action, object, remote, outcome, detail: UTF-8
//
// The lengths make the encoding unambiguous: no two lines have the same.
func (e *Event) Sum() []byte {
	b := make([]byte, 1, 256)
	b[0] = encodingVersion
	b = field(b, e.Previous)
	b = field(b, e.TenantID)
	b = number(b, e.Seq)
	b = number(b, e.At.UnixMicro())
	for _, text := range []string{e.Actor, e.Action, e.Object, e.Remote, e.Outcome, e.Detail} {
		b = field(b, text)
	}
	sum := sha256.Sum256(b)
	return sum[:]
}

// field adds a text behind its length. None is near 4 GiB: a request's body is
// limited to far less.
func field[T string | []byte](b []byte, text T) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(text))) //nolint:gosec // see above
	return append(b, text...)
}

func number(b []byte, n int64) []byte {
	b = binary.BigEndian.AppendUint32(b, 8)
	return binary.BigEndian.AppendUint64(b, uint64(n)) //nolint:gosec // two's complement is what is meant
}

// mark is the line's own.
func (e *Event) mark() Mark { return Mark{e.Seq, e.Hash} }

// Chain says where a tenant's chain of lines begins and ends.
type Chain struct {
	TenantID string
	// Origin is the last line from before the log was a chain; 0 without any.
	Origin int64
	// Floor is the last line that retention removed, and FloorAt when that was;
	// line 0 without any. Its hash is zeros up to Origin.
	Floor   Mark
	FloorAt time.Time
	// Head is the last line.
	Head Mark
	// Seal is Key's over all of the above.
	Seal []byte

	// First and Last are the lowest and the highest number that there is in
	// the table at the same moment, 0 for none, whatever the chain says.
	First, Last int64
}

// fresh reports whether nothing was ever written to the chain.
func (c *Chain) fresh() bool { return len(c.Seal) == 0 && c.Head.Seq == 0 && c.Floor.Seq == 0 }

// start is where a walk through the chain begins: behind the floor, or behind
// the lines that are no part of it.
func (c *Chain) start() Mark {
	if c.Floor.Seq > c.Origin {
		return c.Floor
	}
	return Mark{c.Origin, zeroHash()}
}

// add makes lines the chain's next ones.
func (c *Chain) add(lines []*Event) {
	for _, e := range lines {
		e.TenantID, e.Seq, e.Previous = c.TenantID, c.Head.Seq+1, c.Head.Hash
		e.Hash = e.Sum()
		c.Head = e.mark()
	}
}

// sealed is what a seal is over.
func (c *Chain) sealed() []byte {
	b := []byte{encodingVersion}
	b = field(b, "stella audit chain")
	b = field(b, c.TenantID)
	b = number(b, c.Origin)
	b = number(b, c.Floor.Seq)
	b = field(b, c.Floor.Hash)
	at := int64(0)
	if !c.FloorAt.IsZero() {
		at = c.FloorAt.UnixMicro()
	}
	b = number(b, at)
	b = number(b, c.Head.Seq)
	return field(b, c.Head.Hash)
}
