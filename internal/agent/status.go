package agent

import (
	"cmp"
	"os"
	"slices"
	"sync"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/obs"
)

// linkState is what has become of the link, for those who ask how the agent is.
// The zero value has not connected yet. It is safe for concurrent use.
type linkState struct {
	changed chan struct{} // when it is there, has a value when there is news

	mu           sync.Mutex
	transport    string    // while the link stands; empty otherwise
	since        time.Time // when it began to stand, or when the one before ended
	stood        bool      // it has stood since the agent started
	beat         time.Time // when a heartbeat was taken last
	notAccepting string    // as the last heartbeat said
	failures     int       // in a row
	err          error     // why the last attempt failed, or the link ended
	errAt        time.Time
}

// up notes that the link stands. One that was handed over has never been down.
func (l *linkState) up(transport string, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.transport == "" {
		l.since = at
	}
	l.transport, l.stood, l.failures, l.err = transport, true, 0, nil
	ring(l.changed)
}

// down notes that the link has ended.
func (l *linkState) down(at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.transport, l.since = "", at
}

// failed notes why there is no link, and how often in a row it was tried.
func (l *linkState) failed(err error, failures int, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err, l.failures, l.errAt = err, failures, at
	ring(l.changed)
}

// beats notes what a heartbeat says of new tasks.
func (l *linkState) beats(notAccepting string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.notAccepting = notAccepting
}

// beaten notes that a heartbeat was taken.
func (l *linkState) beaten(at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.beat = at
}

// connected reports whether the link stands.
func (l *linkState) connected() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.transport != ""
}

// String says in a few words whether the link stands, and why not.
func (l *linkState) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.transport != "":
		return "online over " + l.transport
	case l.err != nil:
		return "offline, tries again: " + l.err.Error()
	}
	return "connects to its server"
}

// tell fills in what is known of the link. After so many failures as limit says, if
// it says so, the agent is offline.
func (l *linkState) tell(s *api.LocalStatus, limit int, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.Connected, s.Transport, s.Failures, s.NotAccepting = l.transport != "", l.transport, l.failures, l.notAccepting
	s.LastHeartbeat = moment(l.beat)
	switch {
	case s.Connected:
		s.ConnectedSince, s.LastConnected = moment(l.since), moment(now)
	case l.stood:
		s.LastConnected = moment(l.since)
	}
	if l.err != nil {
		s.LastError, s.LastErrorAt = l.err.Error(), moment(l.errAt)
	}
	switch {
	case s.Connected && s.Broken == "":
		s.Status = api.StatusOnline
	case !s.Connected && limit > 0 && l.failures >= limit:
		s.Status = api.StatusOffline
	default:
		s.Status = api.StatusDegraded
	}
}

// moment is a time that the API leaves out when there is none.
func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// status is how the agent is. It asks nobody, and waits for nothing that runs.
func (a *Agent) status(id *identity, run *runner) *api.LocalStatus {
	s := &api.LocalStatus{
		AgentID: id.AgentID, Name: a.Config.Name, Version: obs.BuildVersion(), Server: id.ServerURL,
		Broken: a.capabilities.broken(), Tasks: run.running(), Boot: a.boot.current(), PID: os.Getpid(),
		StartedAt: a.started.UTC(), UptimeSeconds: int64(time.Since(a.started).Seconds()),
	}
	a.link.tell(s, a.Config.MaxReconnectAttempts, a.clock.now())
	s.NotAccepting = cmp.Or(a.drained(), s.NotAccepting)
	if leaf, err := leafOf(a.Config.Data); err == nil { // the keeper says in the log what is wrong with it
		s.Certificate = &api.LocalCertificate{
			Serial: leaf.SerialNumber.Text(16), NotBefore: leaf.NotBefore.UTC(), NotAfter: leaf.NotAfter.UTC(),
			RenewsAt: renewsAt(leaf, a.Config.CertRenewalThreshold).UTC(),
		}
	}
	return s
}

// running lists the tasks that have not ended, the oldest first.
func (r *runner) running() []api.LocalTask {
	r.mu.Lock()
	defer r.mu.Unlock()
	tasks := []api.LocalTask{}
	for _, a := range r.active {
		if a.result == nil {
			tasks = append(tasks, api.LocalTask{ID: a.id, Type: a.kind, Attempt: a.attempt, Since: a.acceptedAt.UTC()})
		}
	}
	slices.SortFunc(tasks, func(a, b api.LocalTask) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.ID, b.ID))
	})
	return tasks
}
