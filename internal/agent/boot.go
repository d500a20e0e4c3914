package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/google/uuid"

	"stella-ops.org/stella/internal/atomicfile"
)

// bootFile holds how many times the agent was started from its data folder.
const bootFile = "boot"

// hostname is the machine's name, for people; empty when it has none.
func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	return name
}

// maxBoot is as far as the counter goes. Nobody starts an agent so often; it keeps
// whoever plays the server from leaving the agent without a number to count to.
const maxBoot = int64(1) << 62

// boot is one start of the agent. The counter of starts and a number within this
// one order all that the agent ever signs, so that what was heard once can never
// be said again. It is safe for concurrent use.
type boot struct {
	path string
	// Instance is a UUID of this start. It is kept nowhere: two agents that run
	// from copies of one folder may have the same count, and never the same UUID.
	Instance string

	mu     sync.Mutex
	count  int64
	number int64 // of what was signed last in it
}

// instance is Instance, or empty for what makes no start.
func (b *boot) instance() string {
	if b == nil {
		return ""
	}
	return b.Instance
}

// beginBoot counts a start. The count is on disk when it returns.
func beginBoot(dir string) (*boot, error) {
	b := &boot{path: filepath.Join(dir, bootFile), Instance: uuid.NewString()}
	data, err := os.ReadFile(b.path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("count this start: %w", err)
	}
	if err == nil {
		b.count, err = strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
		if err != nil || b.count < 0 {
			return nil, fmt.Errorf("count this start: %s does not hold a number: remove it, and the agent goes on from what its server knows", b.path)
		}
	}
	return b, b.raise(b.count)
}

// Raise begins another boot above one that the server has heard of: the data
// folder was restored from a copy, or somebody runs from one. It does nothing when
// this boot is above it already.
func (b *boot) Raise(known int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if known < b.count {
		return nil
	}
	return b.raise(known)
}

func (b *boot) raise(above int64) error {
	if above >= maxBoot {
		return fmt.Errorf("boot %d is more than an agent can have: remove %s if it was altered; if the server says so, it is not the one that it was", above, b.path)
	}
	if err := atomicfile.Write(b.path, []byte(strconv.FormatInt(above+1, 10)+"\n"), 0o600); err != nil {
		return fmt.Errorf("count this start: %w", err)
	}
	b.count, b.number = above+1, 0
	return nil
}

// current is the count of this boot.
func (b *boot) current() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.count
}

// Next is the number of what is signed next.
func (b *boot) Next() (count, number int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.number++
	return b.count, b.number
}
