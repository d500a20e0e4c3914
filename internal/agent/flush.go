package agent

import (
	"google.golang.org/protobuf/types/known/timestamppb"

	stellav1 "stella-ops.org/stella/api/stella/v1"
)

// reconnected makes everything that the last connection may have lost be sent
// again; the server knows what it has already.
func (r *runner) reconnected() {
	r.mu.Lock()
	for _, a := range r.active {
		a.accepted, a.sent = false, false
		a.log.reconnected()
	}
	r.mu.Unlock()
	r.touch()
}

// flush sends what waits: that tasks have begun, then their logs, then their
// results, which go only behind the whole of the log.
func (r *runner) flush(send func(*stellav1.ConnectRequest) error) error {
	r.mu.Lock()
	active := make([]*activeTask, 0, len(r.active))
	for _, a := range r.active {
		active = append(active, a)
	}
	r.mu.Unlock()
	for _, a := range active {
		if err := r.flushTask(a, send); err != nil {
			return err
		}
	}
	return nil
}

func (r *runner) flushTask(a *activeTask, send func(*stellav1.ConnectRequest) error) error {
	r.mu.Lock()
	ref := &stellav1.TaskRef{TaskId: a.id, Attempt: a.attempt}
	accept := !a.accepted && !a.refused
	a.accepted = true
	at := timestamppb.New(a.acceptedAt)
	r.mu.Unlock()
	if accept {
		err := send(&stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_TaskAccepted{TaskAccepted: &stellav1.TaskAccepted{Ref: ref, At: at}}})
		if err != nil {
			return err
		}
	}
	for {
		// Before a chunk is taken, so that what was logged before the result
		// came is sent before it.
		r.mu.Lock()
		result, sent := a.result, a.sent
		r.mu.Unlock()
		if chunk := a.log.next(ref); chunk != nil {
			if err := send(&stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_LogChunk{LogChunk: chunk}}); err != nil {
				return err
			}
			continue
		}
		if result == nil || sent || !a.log.idle() {
			return nil // more comes with the next acknowledgement
		}
		r.mu.Lock()
		a.sent = true
		r.mu.Unlock()
		return send(&stellav1.ConnectRequest{Frame: &stellav1.ConnectRequest_TaskResult{TaskResult: &stellav1.TaskResult{Ref: ref, ResultJson: result}}})
	}
}

// logAcked drops log entries that the server has, and sends the next ones.
func (r *runner) logAcked(ref *stellav1.TaskRef, lastSeq int64) {
	r.mu.Lock()
	a := r.active[ref.GetTaskId()]
	r.mu.Unlock()
	if a != nil {
		a.log.acked(lastSeq)
		r.touch()
	}
}
