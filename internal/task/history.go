package task

import (
	"encoding/json"
	"fmt"

	"stella-ops.org/stella/api"
)

// fillDeployment keeps the deploy's payload with the history, whether the task
// was the deploy itself or a rollback that carries one, so that any entry can
// be repeated on its own.
func (s *Service) fillDeployment(d *Deployment, t *Task, sec *content) error {
	payload := sec.Payload
	if t.Type == api.TaskRollback {
		var p rollbackPayload
		if err := json.Unmarshal(sec.Payload, &p); err != nil {
			return fmt.Errorf("decode rollback %s: %w", t.ID, err)
		}
		if p.Deploy == nil {
			return nil // restored from what the target had kept; nothing to repeat
		}
		var err error
		if payload, err = json.Marshal(p.Deploy); err != nil {
			return fmt.Errorf("encode deployment of %s: %w", t.ID, err)
		}
	}
	var dp deployPayload
	if err := json.Unmarshal(payload, &dp); err != nil {
		return fmt.Errorf("decode deployment of %s: %w", t.ID, err)
	}
	if d.Digest == "" {
		d.Digest = dp.Digest
	}
	var err error
	if d.Payload, err = json.Marshal(dp.public()); err != nil {
		return fmt.Errorf("encode deployment of %s: %w", t.ID, err)
	}
	d.Sealed, err = s.sealSecret(t.ID, &content{Payload: payload, Credentials: sec.Credentials})
	return err
}
