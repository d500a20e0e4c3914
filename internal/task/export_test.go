package task

import (
	"encoding/json"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/target"
)

// What the tests reach that no other package may.

// Check is the check of payloads.
func Check(typ api.TaskType, tgt *target.Target, raw json.RawMessage) (whole, public json.RawMessage, err error) {
	whole, public, _, err = check(typ, tgt, raw)
	return whole, public, err
}

// SweepLeases is one round of Run's look at leases.
var SweepLeases = (*Service).sweepLeases
