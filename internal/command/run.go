package command

import (
	"context"
	"fmt"
	"time"

	"stella-ops.org/stella/api"
)

const (
	// markDelay is how long a mark waits for the answer that mostly comes right
	// behind it, so that one row is written for both. While a command goes out
	// to thousands, their server has better things to do than to write that.
	markDelay = 200 * time.Millisecond
	// A batch of a crowd's size is followed by a pause, in which more gather:
	// the crowd's command is still going out to others.
	crowd      = 64
	crowdPause = 50 * time.Millisecond
	// What one batch takes at the most: others want to write too.
	batchReports = 5000
	batchBytes   = 8 << 20
	// sweepRecipients is how many recipients a sweep moves in one transaction.
	sweepRecipients = 10_000
	// writeTimeout is how long one batch may take, whether Run ends or not.
	writeTimeout = 10 * time.Second
)

// Run writes marks and answers in batches, expires once a second what was not
// answered in time, and deletes what ended long ago, until ctx ends; then it
// writes what is left.
//
// An answer is written at once when nothing else is; those that come while a
// batch is under way make the next one, and when a crowd answers, those that
// come in the moment after it, too. Marks wait a moment, or for an answer.
func (s *Service) Run(ctx context.Context) error {
	s.setEnded(false)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var marksDue, paused <-chan time.Time
	for {
		answered := s.answered
		if paused != nil {
			answered = nil
		}
		select {
		case <-ctx.Done():
			s.setEnded(true)
			if err := s.flush(ctx, true); err != nil {
				s.refuse(err)
				return fmt.Errorf("write the last reports of commands: %w", err)
			}
			return nil
		case <-s.marked:
			if marksDue == nil {
				marksDue = time.After(markDelay)
			}
			continue
		case <-marksDue:
		case <-paused:
			paused = nil
			continue
		case <-answered:
		case <-tick.C:
			s.sweep(ctx)
			continue
		}
		if s.waiting() >= crowd {
			paused = time.After(crowdPause)
		}
		marksDue = nil
		// While the store takes nothing, the sweep's tries are enough.
		if s.flushed(ctx, false) && s.marksWait() {
			marksDue = time.After(markDelay)
		}
	}
}

// waiting is how many answers wait to be written.
func (s *Service) waiting() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.answers)
}

func (s *Service) marksWait() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.marks) > 0
}

func (s *Service) setEnded(ended bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = ended
}

// flush writes all that waits, batch by batch, or else one batch, in which are
// only marks that have waited long enough. It does so also when ctx has ended:
// those who answered wait for it. When the store fails, those who wait for a batch are told,
// and its marks stay for the next time.
func (s *Service) flush(ctx context.Context, all bool) error {
	for {
		answers, reports := s.take(all)
		if len(reports) == 0 {
			return nil
		}
		outcomes, moved, err := s.record(ctx, reports)
		marks := reports[:len(reports)-len(answers)]
		if err == nil {
			s.forget(marks)
			s.publish(moved)
		}
		for i, a := range answers {
			w := written{err: err}
			if err == nil {
				w.Outcome = outcomes[len(marks)+i]
			}
			a.done <- w
		}
		if err != nil {
			return err
		}
		if !all {
			if s.waiting() > 0 {
				signal(s.answered) // they make the next batch
			}
			return nil
		}
	}
}

// refuse tells all who still wait that nobody will write their answers.
func (s *Service) refuse(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.answers {
		a.done <- written{err: err}
	}
	s.answers, s.bytes = nil, 0
}

func (s *Service) record(ctx context.Context, reports []Report) ([]Outcome, []Transition, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	return s.store.RecordReports(ctx, reports)
}

// take returns the next batch: marks, and behind them answers. The marks stay
// noted until they are written.
func (s *Service) take(all bool) (answers []*answer, reports []Report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, bytes := 0, 0
	for n < len(s.answers) && n < batchReports/2 && (n == 0 || bytes+s.answers[n].size() <= batchBytes) {
		bytes += s.answers[n].size()
		n++
	}
	reports = make([]Report, 0, min(len(s.marks)+n, batchReports))
	mark := func(ref Ref, at time.Time) {
		if len(reports) < batchReports-n {
			reports = append(reports, Report{Ref: ref, State: api.CommandDelivered, At: at})
		}
	}
	answered := make(map[Ref]bool, n)
	for _, a := range s.answers[:n] {
		if at, ok := s.marks[a.Ref]; ok && !answered[a.Ref] {
			answered[a.Ref] = true
			mark(a.Ref, at)
		}
	}
	due := s.now().Add(-markDelay)
	for ref, at := range s.marks {
		if (all || !at.After(due)) && !answered[ref] {
			mark(ref, at)
		}
	}
	for _, a := range s.answers[:n] {
		reports = append(reports, a.Report)
	}
	answers, s.answers, s.bytes = s.answers[:n], s.answers[n:], s.bytes-bytes
	if len(s.answers) == 0 {
		s.answers = nil // gives the memory of a crowd back
	}
	return answers, reports
}

// forget drops marks that are written.
func (s *Service) forget(marks []Report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range marks {
		delete(s.marks, marks[i].Ref)
	}
}

// sweep ends what is over. All that came before the sweep is written first: an
// answer in memory was in time, whatever the store knows.
func (s *Service) sweep(ctx context.Context) {
	s.mu.Lock()
	now := s.now()
	s.mu.Unlock()
	if !s.flushed(ctx, true) {
		return
	}
	for more := true; more && ctx.Err() == nil; {
		moved, again, err := s.store.ExpireCommands(ctx, now, sweepRecipients)
		if err != nil {
			s.log.ErrorContext(ctx, "commands were not swept", "error", err)
			return
		}
		s.publish(moved)
		// Who answers must not wait for the whole of a long sweep.
		more = again && s.flushed(ctx, true)
	}
	// What is more than one round's comes with the next sweep.
	if _, err := s.store.DeleteEndedCommands(ctx, now.Add(-s.opts.Keep), sweepRecipients); err != nil {
		s.log.ErrorContext(ctx, "old commands were not deleted", "error", err)
	}
}

// flushed writes all that waits and reports whether the store took it.
func (s *Service) flushed(ctx context.Context, all bool) bool {
	err := s.flush(ctx, all)
	if err != nil {
		s.log.ErrorContext(ctx, "marks of delivered commands wait in memory: the store takes none", "error", err)
	}
	return err == nil
}

// publish tells all that moved, in one call for each tenant.
func (s *Service) publish(moved []Transition) {
	events := map[string][]api.Event{}
	for i := range moved {
		events[moved[i].TenantID] = append(events[moved[i].TenantID], moved[i].event())
	}
	for tenant, list := range events {
		s.events.Publish(tenant, list...)
	}
}
