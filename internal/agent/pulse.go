package agent

import (
	"fmt"
	"sync"
	"time"
)

// turnMost is how long one turn of a loop may take beside the time that it waits:
// a dial of each kind, or a frame over a line that hardly works, ends by itself
// before that.
const turnMost = 5 * time.Minute

// pulse is by what others know that a loop turns: the loop says for how long it
// will wait at most, and is to say it again by then. The zero value is of a loop
// that has not begun. It is safe for concurrent use.
type pulse struct {
	mu  sync.Mutex
	due time.Time
}

// beat says that the loop turns, and that it turns again after wait, and what a
// turn takes.
func (p *pulse) beat(wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.due = time.Now().Add(wait + turnMost)
}

// check is nil when the loop turns, or has not begun.
func (p *pulse) check() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if late := time.Since(p.due); !p.due.IsZero() && late > 0 {
		return fmt.Errorf("it should have turned %s ago", late.Round(time.Second))
	}
	return nil
}
