package task_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/task"
)

// sweeps is a store of which only Run's part is there.
type sweeps struct {
	task.Store

	mu       sync.Mutex
	down     bool
	expiring []time.Time
	leases   []time.Time
	failed   []task.Finish
}

// at returns a copy, and sets whether the store is there from now on.
func (s *sweeps) at(down bool) (expiring, leases []time.Time, failed []task.Finish) {
	s.mu.Lock()
	defer s.mu.Unlock()
	expiring, leases, failed = s.expiring, s.leases, s.failed
	s.down, s.expiring, s.leases, s.failed = down, nil, nil, nil
	return expiring, leases, failed
}

// ExpireQueued implements task.Store.
func (s *sweeps) ExpireQueued(_ context.Context, at time.Time) ([]*task.Task, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expiring = append(s.expiring, at)
	if s.down {
		return nil, errors.New("the disk is gone")
	}
	return nil, nil
}

// LeasesBefore implements task.Store.
func (s *sweeps) LeasesBefore(_ context.Context, at time.Time) ([]*task.Task, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leases = append(s.leases, at)
	return []*task.Task{{ID: "t", Attempt: 3, State: api.TaskRunning, AgentID: "a"}}, nil
}

// FailLost implements task.Store.
func (s *sweeps) FailLost(_ context.Context, f task.Finish, _ time.Time) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = append(s.failed, f)
	return true, nil
}

// A server that was away did not hear agents renew their leases: for the time
// of a lease it takes none back. The same holds when its store was away.
func TestNoLeaseIsLostForTheServersOwnAbsence(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &sweeps{}
		svc := task.NewService(s, &wakes{}, nil, nil, nil, nil, nil, task.Options{Lease: lease}, time.Now, slog.New(slog.DiscardHandler))
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- svc.Run(ctx) }()
		pass := func(d time.Duration) {
			time.Sleep(d) //nolint:forbidigo // the bubble's clock
			synctest.Wait()
		}
		pass(lease - time.Second/2)
		expiring, leases, _ := s.at(false)
		if len(expiring) != int(lease/time.Second)-1 || len(leases) != 0 {
			t.Fatalf("%d sweeps of the queue and %d of the leases within the first lease", len(expiring), len(leases))
		}
		pass(time.Second)
		_, leases, failed := s.at(true)
		if len(leases) != 1 || len(failed) != 1 || failed[0].Result.ErrorType != api.ErrAgentLost || failed[0].State != api.TaskFailed {
			t.Fatalf("%d sweeps, ended: %+v", len(leases), failed)
		}
		pass(10 * time.Second)
		s.at(false)
		pass(lease - 2*time.Second)
		if _, leases, _ = s.at(false); len(leases) != 0 {
			t.Fatal("leases were taken back just after the store had returned")
		}
		pass(3 * time.Second)
		if _, leases, _ = s.at(false); len(leases) == 0 {
			t.Fatal("leases are looked at no more")
		}
		stop()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
}
