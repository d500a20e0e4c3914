package fleet

import (
	"context"
	"time"
)

// Look is one look of the watch.
func (w *Watch) Look(ctx context.Context) error { return w.look(ctx) }

// LookedLast sets when it looked last.
func (w *Watch) LookedLast(ago time.Duration) { w.looked = time.Now().Round(0).Add(-ago) }

// Remembered is for how long changes can be relied upon to be there.
const Remembered = remembered
