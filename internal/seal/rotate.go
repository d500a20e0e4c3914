package seal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Text is a sealed text where it is kept.
type Text struct {
	// Key finds it in its table.
	Key []string
	// Name is what it was sealed under.
	Name   string
	Sealed []byte
}

// Replacement is a text that was sealed anew.
type Replacement struct {
	Text
	Anew []byte
}

// Texts is all that is sealed, but for the keyring itself.
type Texts interface {
	// SealedTables names the tables that hold sealed texts.
	SealedTables() []string
	// OutdatedTexts returns at most limit texts of a table that do not begin
	// with head, in the order of their keys, behind a key; nil is the beginning.
	OutdatedTexts(ctx context.Context, table string, head []byte, after []string, limit int) ([]Text, error)
	// ReplaceTexts puts texts in the place of those that they were made of, all
	// or none, but for those that were changed or removed meanwhile, which are
	// left alone. It returns how many it put.
	ReplaceTexts(ctx context.Context, table string, list []Replacement) (int, error)
}

// Rotation replaces an installation's master key and its data key, while its
// servers run. It goes in steps, each of which may be the last: whatever
// process is killed, the servers work, and running it again goes on where it
// ended.
//
//  1. The next master key is written beside the file of the present one.
//  2. The keyring, with a new data key besides the old ones, is put in the
//     database sealed under the next master key. From here on the next one is
//     the master key; a server that meets it looks for it beside the file.
//  3. The file is replaced.
//  4. Everything that is sealed is sealed anew under the new data key, in pages.
//  5. The grace passes: every server has looked at the keyring by then, or has
//     stopped to seal ([Keyring]). Then step 4 again, until nothing is found.
//  6. The old data keys are dropped from the keyring. What a server that was
//     stopped for the whole of the grace (a virtual machine, say) has written
//     after all is looked for once more, while the old keys are still at hand.
type Rotation struct {
	// Keyring is that of the installation.
	Keyring *Keyring
	Texts   Texts
	// Grace is how long old data keys are kept; DefaultGrace when 0.
	Grace time.Duration
	// Say, when set, gets what happens, one line at a time.
	Say func(line string)
	// Before, when set, is called before each step; an error ends the rotation
	// there. Crash tests end it so.
	Before func(step string) error
}

// The steps, as Before gets them.
const (
	StepNextKey     = "write the next master key"
	StepPublish     = "publish the keyring"
	StepReplaceFile = "replace the master key file"
	StepReseal      = "seal anew" // before each page
	StepDrop        = "drop the old data keys"
	StepLookAgain   = "look again"
)

// RotationSteps are all steps, in order.
var RotationSteps = []string{StepNextKey, StepPublish, StepReplaceFile, StepReseal, StepDrop, StepLookAgain}

// Rotated is what a rotation did.
type Rotated struct {
	// Resumed: it has finished one that was begun before, and begun none.
	Resumed bool
	// MasterKey and DataKey are the ids of the keys that are in force.
	MasterKey, DataKey string
	// Texts is how many were sealed anew.
	Texts int
	// Unreadable are texts that no key opens. They were so before, too.
	Unreadable []string
}

// maxPasses bounds how often everything is gone through: what is found again
// and again is written by somebody who cannot be waited for.
const maxPasses = 6

// pageSize bounds what is held in memory and changed in one transaction.
const pageSize = 32

// Run rotates, or finishes a rotation that was begun, and blocks for the grace
// at least. One runs at a time.
func (r *Rotation) Run(ctx context.Context) (*Rotated, error) {
	k := r.Keyring
	unlock, err := k.file.lock()
	if err != nil {
		return nil, fmt.Errorf("rotate the master key: %w", err)
	}
	defer unlock()
	if err := k.look(ctx); err != nil {
		return nil, fmt.Errorf("rotate the master key: %w", err)
	}
	out := &Rotated{Resumed: k.ring.Load().rotating()}
	if out.Resumed {
		r.say("finishing the rotation that was begun at %s", k.ring.Load().begun.Format(time.RFC3339))
		if err := r.replaceFile(); err != nil {
			return nil, err
		}
	} else if err := r.begin(ctx); err != nil {
		return nil, err
	}
	// By this process's clock, also for one that was begun long ago: its end may
	// have been a moment after its beginning.
	published := time.Now()
	now := k.ring.Load()
	out.MasterKey, out.DataKey = masterID(now.master), now.newest().name()
	if err := r.resealAll(ctx, now, published, out); err != nil {
		return nil, err
	}
	return out, r.drop(ctx, now, out)
}

// begin makes the new keys the ones that are used.
func (r *Rotation) begin(ctx context.Context) error {
	k := r.Keyring
	if err := r.before(StepNextKey); err != nil {
		return err
	}
	next, err := k.file.makeNext()
	if err != nil {
		return err
	}
	if err := r.before(StepPublish); err != nil {
		return err
	}
	old := k.ring.Load()
	if bytes.Equal(next, old.master) {
		return fmt.Errorf("rotate the master key: %s holds the key that is in use: remove that file, and run this again", k.file.nextPath())
	}
	anew := &ring{master: next, keys: append(slices.Clone(old.keys), newDataKey(time.Now())), former: [][]byte{old.master}, begun: time.Now().UTC()}
	if err := r.swap(ctx, old, anew); err != nil {
		return err
	}
	r.say("the keyring has a new data key, %s, and is sealed under the new master key, %s", anew.newest().name(), masterID(next))
	return r.replaceFile()
}

// swap puts a keyring in the place of another one.
func (r *Rotation) swap(ctx context.Context, old, anew *ring) (err error) {
	k := r.Keyring
	if anew.row, err = anew.encode(k.file.origin()); err != nil {
		return err
	}
	done, err := k.store.SwapKey(ctx, KeyringName, old.row, anew.row)
	if err != nil {
		return fmt.Errorf("store the keyring: %w", err)
	}
	if !done {
		return errors.New("rotate the master key: another rotation has changed the keyring meanwhile, on another host; nothing is lost: run this again when that one is done, where that one ran")
	}
	at := time.Now()
	k.ring.Store(anew)
	k.confirmed.Store(&at)
	return nil
}

func (r *Rotation) replaceFile() error {
	if err := r.before(StepReplaceFile); err != nil {
		return err
	}
	return r.Keyring.file.replace(r.Keyring.ring.Load().master)
}

// resealAll goes through all texts until the grace has passed and a pass finds
// nothing.
func (r *Rotation) resealAll(ctx context.Context, now *ring, published time.Time, out *Rotated) error {
	grace := r.Grace
	if grace == 0 {
		grace = DefaultGrace
	}
	for pass := 1; ; pass++ {
		settled := time.Since(published) >= grace
		found, unreadable, err := r.pass(ctx, now)
		if err != nil {
			return fmt.Errorf("seal anew: %w; nothing is lost, and every text can be read: run the command again to go on", err)
		}
		out.Texts += found
		out.Unreadable = unreadable
		r.say("%d texts were sealed anew", found)
		switch {
		case settled && found == 0:
			return nil
		case settled && pass >= maxPasses:
			return fmt.Errorf("seal anew: %d texts were sealed under an old data key again, %s after the new one was published: a server that does not see the new keyring still writes, or restores an old copy; "+
				"the old data keys stay until that has ended: find it by its log (it says that its keyring cannot be read), and run the command again", found, time.Since(published).Round(time.Second))
		case !settled:
			wait := time.Until(published.Add(grace))
			r.say("waiting %s, until every server has seen the new data key", wait.Round(time.Second))
			select {
			case <-ctx.Done():
				return fmt.Errorf("rotate the master key: %w; run the command again to finish", context.Cause(ctx))
			case <-time.After(wait):
			}
		}
	}
}

// pass seals anew what is not under the newest key of a keyring, and returns
// how many that were, and the names of those that no key opens.
func (r *Rotation) pass(ctx context.Context, keys *ring) (found int, unreadable []string, err error) {
	for _, table := range r.Texts.SealedTables() {
		var after []string
		for {
			page, err := r.Texts.OutdatedTexts(ctx, table, keys.head(), after, pageSize)
			if err != nil {
				return found, unreadable, fmt.Errorf("read %s: %w", table, err)
			}
			if len(page) == 0 {
				break
			}
			after = page[len(page)-1].Key
			if err := r.before(StepReseal); err != nil {
				return found, unreadable, err
			}
			var list []Replacement
			for _, t := range page {
				plain, err := keys.open(t.Name, t.Sealed)
				if err != nil {
					unreadable = append(unreadable, table+": "+err.Error())
					continue
				}
				list = append(list, Replacement{t, keys.seal(t.Name, plain)})
			}
			n, err := r.Texts.ReplaceTexts(ctx, table, list)
			if err != nil {
				return found, unreadable, fmt.Errorf("write %s: %w", table, err)
			}
			found += n
		}
	}
	return found, unreadable, nil
}

// drop takes the old data keys out of the keyring.
func (r *Rotation) drop(ctx context.Context, old *ring, out *Rotated) error {
	if err := r.before(StepDrop); err != nil {
		return err
	}
	if err := r.swap(ctx, old, &ring{master: old.master, keys: []*dataKey{old.newest()}}); err != nil {
		return err
	}
	r.say("the old data keys are dropped")
	if err := r.before(StepLookAgain); err != nil {
		return err
	}
	found, _, err := r.pass(ctx, old)
	if err != nil {
		return fmt.Errorf("look once more for texts under the old data keys: %w; the rotation itself is done", err)
	}
	out.Texts += found
	return nil
}

func (r *Rotation) say(format string, args ...any) {
	if r.Say != nil {
		r.Say(fmt.Sprintf(format, args...))
	}
}

func (r *Rotation) before(step string) error {
	if r.Before == nil {
		return nil
	}
	return r.Before(step)
}
