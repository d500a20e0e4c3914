package rest

import (
	"context"
	"encoding/hex"
	"net/http"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/access"
	"stella-ops.org/stella/internal/filter"
)

// Audit writes, reads and verifies the audit log.
type Audit interface {
	access.Auditor
	AuditEvents(ctx context.Context, tenant string, f access.Filter) ([]*access.Event, error)
	Verify(ctx context.Context, tenant string, req access.VerifyRequest) (*access.Verification, error)
}

// auditLog adds what admins ask of the audit log.
func (s *Server) auditLog() {
	type listQuery struct{ Page }
	list(s, s.operation(http.MethodGet, "/api/v1/audit", "audit.list", "List what was changed, the newest first", admin), access.AuditSchema,
		func(ctx context.Context, in *listQuery, q filter.Query) ([]*access.Event, error) {
			return s.Audit.AuditEvents(ctx, principal(ctx).TenantID, access.Filter{Query: q, Limit: in.Limit})
		},
		func(_ context.Context, _ *listQuery, found []*access.Event, next string) api.AuditList {
			out := api.AuditList{Items: make([]api.AuditEvent, len(found)), Next: next}
			for i, e := range found {
				out.Items[i] = viewEvent(e)
			}
			return out
		})

	type verifyQuery struct {
		After string `query:"after" maxLength:"100" doc:"Verifies only what is behind this line, a number, a colon and a hash: what an earlier answer gave as next, or as the head."`
		Head  string `query:"head" maxLength:"100" doc:"Also looks for this line, a number, a colon and a hash: one that somebody wrote down earlier."`
	}
	// Like the listing, for admins: what is told of is the log's own content,
	// and to verify a long one is work for the server. Who may read a log may
	// verify it, as with other keepers of logs.
	handle(s, s.operation(http.MethodGet, "/api/v1/audit/verify", "audit.verify", "Verify that the audit log is as it was written", admin),
		func(ctx context.Context, in *verifyQuery) (api.AuditVerification, error) {
			var req access.VerifyRequest
			for _, m := range []struct {
				location, text string
				into           *access.Mark
			}{{"query.after", in.After, &req.After}, {"query.head", in.Head, &req.Contains}} {
				if m.text == "" {
					continue
				}
				var err error
				if *m.into, err = access.ParseMark(m.location, m.text); err != nil {
					return api.AuditVerification{}, err
				}
			}
			v, err := s.Audit.Verify(ctx, principal(ctx).TenantID, req)
			if err != nil {
				return api.AuditVerification{}, err
			}
			return viewVerification(v), nil
		})
}

func viewEvent(e *access.Event) api.AuditEvent {
	return api.AuditEvent{
		Seq: e.Seq, Tenant: e.TenantID, At: e.At, Actor: e.Actor, Action: e.Action, Object: e.Object, Remote: e.Remote,
		Outcome: e.Outcome, Detail: e.Detail, PreviousHash: hex.EncodeToString(e.Previous), Hash: hex.EncodeToString(e.Hash),
	}
}

func viewVerification(v *access.Verification) api.AuditVerification {
	out := api.AuditVerification{Holds: v.Problem == nil, From: v.From, To: v.To, Lines: v.Lines, Contains: v.Contained}
	if v.Problem != nil {
		out.Problem = &api.AuditProblem{Seq: v.Problem.Seq, What: v.Problem.What}
	}
	if v.Head.Seq > 0 {
		out.Head = &api.AuditMark{Seq: v.Head.Seq, Hash: hex.EncodeToString(v.Head.Hash)}
	}
	if v.Next.Seq > 0 {
		out.Next = v.Next.String()
	}
	if v.Floor.Seq > 0 {
		out.Floor = &api.AuditFloor{Seq: v.Floor.Seq, Hash: hex.EncodeToString(v.Floor.Hash), At: v.FloorAt}
	}
	if v.UnprotectedTo > 0 {
		out.Unprotected = &api.AuditRange{From: v.UnprotectedFrom, To: v.UnprotectedTo}
	}
	return out
}
