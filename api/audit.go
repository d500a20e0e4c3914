package api

import "time"

// AuditEvent is one line of the audit log.
type AuditEvent struct {
	Seq     int64     `json:"seq" doc:"Its number, which rises by one."`
	Tenant  string    `json:"tenant,omitempty" doc:"The tenant whose log it is in."`
	At      time.Time `json:"at" doc:"When it was done, to the microsecond."`
	Actor   string    `json:"actor" doc:"token:<id> (<name>), agent:<id>, anonymous or system."`
	Action  string    `json:"action" doc:"As in agent.revoke."`
	Object  string    `json:"object,omitempty" doc:"What it was done to."`
	Remote  string    `json:"remote,omitempty" doc:"From where."`
	Outcome string    `json:"outcome" enum:"ok,denied,failed" doc:"ok, denied or failed."`
	Detail  string    `json:"detail,omitempty" doc:"More, in words."`
	// PreviousHash and Hash are absent in lines from before the log was a chain.
	PreviousHash string `json:"previousHash,omitempty" doc:"The hash of the line before, in hexadecimal; zeros in a chain's first line, nothing in lines from before the log was a chain."`
	Hash         string `json:"hash,omitempty" doc:"SHA-256 over all of the above, in hexadecimal; docs/audit.md says how."`
}

// AuditList is the answer of GET /api/v1/audit.
type AuditList struct {
	Items []AuditEvent `json:"items" nullable:"false" doc:"The lines of this page."`
	Next  string       `json:"next,omitempty" doc:"Give it back as ?cursor= to get what follows."`
}

// AuditVerification is the answer of GET /api/v1/audit/verify.
type AuditVerification struct {
	Holds       bool          `json:"holds" doc:"Whether everything that was looked at is as it was written."`
	Problem     *AuditProblem `json:"problem,omitempty" doc:"When it does not hold: the first thing that is wrong."`
	From        int64         `json:"from,omitempty" doc:"The first line that was checked; none was when it is left out."`
	To          int64         `json:"to,omitempty" doc:"The last line that was checked."`
	Lines       int64         `json:"lines" doc:"How many lines were checked."`
	Head        *AuditMark    `json:"head,omitempty" doc:"The log's last line when the verification began. Write it down elsewhere: it vouches for everything before it."`
	Next        string        `json:"next,omitempty" doc:"The log is too long for one request: give it back as ?after= to go on."`
	Floor       *AuditFloor   `json:"floor,omitempty" doc:"Where the log begins, when the retention has removed lines."`
	Unprotected *AuditRange   `json:"unprotected,omitempty" doc:"Lines from before the log was a chain: nothing can be said of them."`
	Contains    string        `json:"contains,omitempty" enum:"yes,no,removed" doc:"With ?head=: whether the log contains that line; removed when the retention took it, so that nobody can tell."`
}

// AuditProblem says what is wrong with an audit log.
type AuditProblem struct {
	Seq  int64  `json:"seq" doc:"The number of the first line that is wrong, or missing."`
	What string `json:"what" doc:"What is wrong with it, in words."`
}

// AuditMark names a line of an audit log.
type AuditMark struct {
	Seq  int64  `json:"seq" doc:"The line's number."`
	Hash string `json:"hash" doc:"The line's hash, in hexadecimal."`
}

// AuditFloor is the last line that the retention has removed from an audit log.
type AuditFloor struct {
	Seq  int64     `json:"seq" doc:"The line's number."`
	Hash string    `json:"hash" doc:"The hash that the line had, in hexadecimal; the first line that is left names it as the one before."`
	At   time.Time `json:"at" doc:"When it was removed."`
}

// AuditRange is some lines of an audit log.
type AuditRange struct {
	From int64 `json:"from" doc:"The first line's number."`
	To   int64 `json:"to" doc:"The last line's number."`
}
