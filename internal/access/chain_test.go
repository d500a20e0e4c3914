package access

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"stella-ops.org/stella/internal/fault"
)

// docs/audit.md has this line and its hash, for who writes a verifier.
func TestSumOfAKnownLine(t *testing.T) {
	t.Parallel()
	e := Event{
		Seq: 1, TenantID: "default", At: time.Date(2026, 5, 4, 12, 0, 0, 123456000, time.UTC), Actor: "token:k1 (ci)", Action: "task.create",
		Object: "t1", Remote: "192.0.2.17:51124", Outcome: "ok", Previous: zeroHash(),
	}
	h := sha256.New()
	h.Write([]byte{1})
	for _, f := range []string{
		strings.Repeat("\x00", 32), "default", "\x00\x00\x00\x00\x00\x00\x00\x01", "\x00\x06\x50\xfc\xab\x88\xf2\x40",
		"token:k1 (ci)", "task.create", "t1", "192.0.2.17:51124", "ok", "",
	} {
		fmt.Fprintf(h, "\x00\x00\x00%c%s", len(f), f)
	}
	if want := h.Sum(nil); !bytes.Equal(e.Sum(), want) {
		t.Errorf("%x, want %x", e.Sum(), want)
	}
	const documented = "d6770144ae6c592d1456c83ff23df279ebbf56980f7dea091f3d024843185013"
	page, err := os.ReadFile("../../docs/audit.md")
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(e.Sum()); got != documented || !strings.Contains(string(page), "`"+documented+"`") {
		t.Errorf("%s, which is another than before, or than docs/audit.md says", got)
	}
}

// text is as it may come from anywhere, often short so that fields look alike.
func text() *rapid.Generator[string] { return rapid.OneOf(rapid.StringN(0, 3, -1), rapid.String()) }

func drawLine(t *rapid.T) *Event {
	e := &Event{
		At: time.UnixMicro(rapid.Int64Range(-1<<50, 1<<52).Draw(t, "at")), Actor: text().Draw(t, "actor"), Action: text().Draw(t, "action"),
		Object: text().Draw(t, "object"), Remote: text().Draw(t, "remote"), Outcome: rapid.SampledFrom([]string{"ok", "denied", "failed"}).Draw(t, "outcome"),
		Detail: text().Draw(t, "detail"),
	}
	e.settle()
	return e
}

// drawChain is a chain of some lines behind some others.
func drawChain(t *rapid.T) []*Event {
	c := &Chain{TenantID: text().Draw(t, "tenant"), Head: Mark{rapid.Int64Range(0, 5).Draw(t, "before"), zeroHash()}}
	lines := make([]*Event, rapid.IntRange(2, 12).Draw(t, "lines"))
	for i := range lines {
		lines[i] = drawLine(t)
	}
	c.add(lines)
	return lines
}

// alter changes one field of a line, and reports whether that is its number.
func alter(t *rapid.T, e *Event) (moved bool) {
	texts := []*string{&e.TenantID, &e.Actor, &e.Action, &e.Object, &e.Remote, &e.Outcome, &e.Detail}
	switch n := rapid.IntRange(0, len(texts)+4).Draw(t, "field"); n {
	case len(texts):
		e.Seq += rapid.SampledFrom([]int64{-1, 1, 1 << 40}).Draw(t, "by")
		return true
	case len(texts) + 1:
		e.At = e.At.Add(time.Duration(rapid.SampledFrom([]int{-1, 1, 1e6}).Draw(t, "by")) * time.Microsecond)
	case len(texts) + 2:
		flip(t, &e.Previous)
	case len(texts) + 3:
		flip(t, &e.Hash)
	case len(texts) + 4: // bytes move from one field to the next
		i := rapid.IntRange(0, len(texts)-2).Draw(t, "from")
		if *texts[i] == "" {
			*texts[i] = "x"
		} else {
			last := len(*texts[i]) - 1
			*texts[i+1] = (*texts[i])[last:] + *texts[i+1]
			*texts[i] = (*texts[i])[:last]
		}
	default:
		*texts[n] = rapid.SampledFrom([]string{*texts[n] + "x", *texts[n] + "\x00", "x" + *texts[n]}).Draw(t, "text")
	}
	return false
}

func flip(t *rapid.T, hash *[]byte) {
	*hash = bytes.Clone(*hash)
	(*hash)[rapid.IntRange(0, len(*hash)-1).Draw(t, "byte")] ^= byte(1) << rapid.IntRange(0, 7).Draw(t, "bit")
}

// Whatever somebody does to lines is found, and at the right place.
func TestAnyChangeIsFound(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		lines := drawChain(t)
		head := lines[len(lines)-1].mark()
		shuffled := rapid.Permutation(lines).Draw(t, "order")
		v := VerifyLines(shuffled, head)
		if v.Problem != nil || v.Lines != int64(len(lines)) || v.From != lines[0].Seq || v.To != head.Seq || v.Contained != ContainedYes {
			t.Fatalf("untouched: %+v (%+v)", v, v.Problem)
		}
		at := rapid.IntRange(0, len(lines)-1).Draw(t, "line")
		changed := make([]*Event, len(lines))
		for i, e := range lines {
			c := *e
			changed[i] = &c
		}
		wrong := lines[at].Seq // where it should be found, at the latest one further
		var marks Mark
		moved := false
		switch what := rapid.SampledFrom([]string{"alter", "alter with its hash", "remove", "swap", "again", "cut", "take the hash"}).Draw(t, "what"); what {
		case "alter":
			moved = alter(t, changed[at])
		case "alter with its hash":
			changed[at].Detail += "x"
			changed[at].Hash = changed[at].Sum()
			marks = head // nothing else shows that the last line was replaced
		case "remove":
			at = min(max(at, 1), len(lines)-2)
			if at < 1 {
				t.Skip("there is nothing in the middle")
			}
			wrong = lines[at].Seq
			changed = slices.Delete(changed, at, at+1)
		case "swap":
			other := (at + 1) % len(lines)
			a, b := changed[at], changed[other]
			a.Seq, b.Seq = b.Seq, a.Seq
			wrong = min(a.Seq, b.Seq)
		case "again":
			changed = append(changed, changed[at])
		case "cut":
			changed, marks, wrong = changed[:len(changed)-1], head, head.Seq
		case "take the hash":
			changed[at].Hash = nil
		}
		v = VerifyLines(changed, marks)
		if v.Problem == nil || v.Problem.What == "" {
			t.Fatalf("nothing was found: %+v", v)
		}
		// A line that has another number is missed where it was, or found where
		// it is, or where the others end.
		if !moved && (v.Problem.Seq < wrong || v.Problem.Seq > wrong+1) && marks.Seq == 0 {
			t.Fatalf("line %d was wrong, and this was found: %+v", wrong, v.Problem)
		}
	})
}

// A seal is over every part of what it seals, and good for its key alone.
func TestSeals(t *testing.T) {
	t.Parallel()
	key, other := &Key{mac: []byte("one")}, &Key{mac: []byte("two")}
	rapid.Check(t, func(t *rapid.T) {
		hash := rapid.SliceOfN(rapid.Byte(), 32, 32)
		c := &Chain{
			TenantID: text().Draw(t, "tenant"), Origin: rapid.Int64Range(0, 9).Draw(t, "origin"),
			Floor: Mark{rapid.Int64Range(0, 9).Draw(t, "floor"), hash.Draw(t, "floor hash")},
			Head:  Mark{rapid.Int64Range(9, 99).Draw(t, "head"), hash.Draw(t, "head hash")},
		}
		if rapid.Bool().Draw(t, "shortened") {
			c.FloorAt = time.UnixMicro(rapid.Int64Range(1, 1<<50).Draw(t, "floor at"))
		}
		c.Seal = key.seal(c)
		if !key.fits(c) || other.fits(c) {
			t.Fatal("the seal fits another key, or not its own")
		}
		switch rapid.IntRange(0, 7).Draw(t, "field") {
		case 0:
			c.TenantID += "x"
		case 1:
			c.Origin++
		case 2:
			c.Floor.Seq++
		case 3:
			flip(t, &c.Floor.Hash)
		case 4:
			c.FloorAt = time.UnixMicro(max(c.FloorAt.UnixMicro(), 0) + 1)
		case 5:
			c.Head.Seq--
		case 6:
			flip(t, &c.Head.Hash)
		case 7:
			flip(t, &c.Seal)
		}
		if key.fits(c) {
			t.Fatal("the seal fits what it was not made for")
		}
	})
}

func TestExportsOfManyKinds(t *testing.T) {
	t.Parallel()
	c := &Chain{TenantID: "a", Head: Mark{4, zeroHash()}}
	old := []*Event{{Seq: 2, TenantID: "a"}, {Seq: 4, TenantID: "a"}}
	lines := []*Event{{Actor: "x"}, {Actor: "y"}, {Actor: "z"}}
	c.add(lines)
	foreign := &Chain{TenantID: "b", Head: lines[2].mark()}
	other := []*Event{{Actor: "x"}}
	foreign.add(other)
	broken := &Chain{TenantID: "a", Head: lines[2].mark()}
	told := []*Event{{Actor: actorSystem, Action: actionBroken, Detail: "something"}}
	broken.add(told)
	for _, tc := range []struct {
		name     string
		lines    []*Event
		contains Mark
		want     Verification
		says     string
	}{
		{"nothing", nil, Mark{}, Verification{}, ""},
		{"only old ones", old, Mark{}, Verification{UnprotectedFrom: 2, UnprotectedTo: 4}, ""},
		{"with old ones", slices.Concat(lines, old), Mark{}, Verification{UnprotectedFrom: 2, UnprotectedTo: 4, From: 5, To: 7, Lines: 3, Head: c.Head}, ""},
		{"a part", lines[1:2], Mark{}, Verification{From: 6, To: 6, Lines: 1, Head: lines[1].mark()}, ""},
		{"the line before is in the first", lines[1:], lines[0].mark(), Verification{From: 6, To: 7, Lines: 2, Head: c.Head, Contained: ContainedYes}, ""},
		{"from before", lines[2:], lines[0].mark(), Verification{From: 7, To: 7, Lines: 1, Head: c.Head, Contained: ContainedRemoved}, ""},
		{"from behind", lines[:2], lines[2].mark(), Verification{From: 5, To: 6, Lines: 2, Head: lines[1].mark(), Contained: ContainedNo}, "does not contain line 7"},
		{"of two tenants", slices.Concat(lines, other), Mark{}, Verification{From: 5, To: 7, Lines: 3, Head: other[0].mark()}, `is of the tenant "b"`},
		{"told", slices.Concat(lines, told), Mark{}, Verification{From: 5, To: 7, Lines: 3, Head: told[0].mark()}, "a server found: something"},
	} {
		v := VerifyLines(tc.lines, tc.contains)
		if (v.Problem == nil) != (tc.says == "") || v.Problem != nil && !strings.Contains(v.Problem.What, tc.says) {
			t.Errorf("%s: %+v", tc.name, v.Problem)
		}
		v.Problem = nil
		if fmt.Sprint(*v) != fmt.Sprint(tc.want) {
			t.Errorf("%s: %+v, want %+v", tc.name, *v, tc.want)
		}
	}
}

// FuzzParseMark: what is read is written as it was, and everything else is
// refused with where it stood.
func FuzzParseMark(f *testing.F) {
	good := Mark{1042, bytes.Repeat([]byte{0xab}, 32)}
	for _, s := range []string{"", ":", "1042", good.String(), "0" + good.String(), "-" + good.String(), good.String()[:60], good.String() + "00", "1:zz", strings.Repeat("9", 300)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := ParseMark("query.head", s)
		if err != nil {
			if fault.KindOf(err) != fault.Invalid || len(fault.As(err).Fields) != 1 || fault.As(err).Fields[0].Location != "query.head" {
				t.Errorf("%q: %v", s, err)
			}
			return
		}
		again, err := ParseMark("", m.String())
		if err != nil || again.Seq != m.Seq || !bytes.Equal(again.Hash, m.Hash) || m.Seq < 1 || len(m.Hash) != 32 {
			t.Errorf("%q was read as %s", s, m)
		}
	})
}
