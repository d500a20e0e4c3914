// Package rest is the HTTP API: it decodes, authorises, calls a noun's
// service, and encodes. The rules are the nouns'; the shapes are package
// api's. It knows no SQL.
package rest

import (
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/fleet"
)

// problem is api.Problem as huma writes it, with the headers that its status
// asks for.
type problem struct {
	api.Problem

	header http.Header
}

// GetHeaders implements huma.HeadersError.
func (p *problem) GetHeaders() http.Header { return p.header }

// GetStatus returns the HTTP status.
func (p *problem) GetStatus() int { return p.Status }

// ContentType is that of RFC 9457, whatever the client asked for.
func (p *problem) ContentType(string) string { return "application/problem+json" }

var statusOf = map[fault.Kind]int{
	fault.Internal:           http.StatusInternalServerError,
	fault.Invalid:            http.StatusUnprocessableEntity,
	fault.Unauthenticated:    http.StatusUnauthorized,
	fault.Forbidden:          http.StatusForbidden,
	fault.NotFound:           http.StatusNotFound,
	fault.Conflict:           http.StatusConflict,
	fault.TooLarge:           http.StatusRequestEntityTooLarge,
	fault.RateLimited:        http.StatusTooManyRequests,
	fault.Timeout:            http.StatusRequestTimeout,
	fault.Unavailable:        http.StatusServiceUnavailable,
	fault.UnsupportedVersion: http.StatusBadRequest,
	fault.UpgradeRequired:    http.StatusUpgradeRequired,
	fault.Unsupported:        http.StatusUnsupportedMediaType,
}

// problemOf maps an error to what the client sees. What is no fault is
// internal, and its text stays in the log.
func problemOf(err error) *problem {
	f := fault.As(err)
	if f == nil || f.Kind == fault.Internal {
		return newProblem(http.StatusInternalServerError, "internal", "something went wrong in the server; its log tells more")
	}
	p := newProblem(statusOf[f.Kind], f.Code, f.Message)
	if old, ok := errors.AsType[*fleet.OldNumber](f); ok {
		p.KnownBoot = old.Known.Boot
	}
	if f.RetryAfter > 0 {
		p.header.Set("Retry-After", strconv.FormatInt(int64(f.RetryAfter/time.Second), 10))
	}
	for _, field := range f.Fields {
		p.Errors = append(p.Errors, api.ProblemField{Location: field.Location, Message: field.Message})
	}
	return p
}

func newProblem(status int, code, detail string) *problem {
	p := &problem{Problem: api.Problem{Title: http.StatusText(status), Status: status, Code: code, Detail: detail}, header: http.Header{}}
	if status == http.StatusUnauthorized {
		p.header.Set("WWW-Authenticate", `Bearer realm="stella"`) // RFC 9110, section 11.6.1
	}
	return p
}

// codes for what huma itself refuses, before a noun has seen it.
var codes = map[int]string{
	http.StatusBadRequest:            "malformed",
	http.StatusNotFound:              "not_found",
	http.StatusMethodNotAllowed:      "method_not_allowed",
	http.StatusNotAcceptable:         "not_acceptable",
	http.StatusRequestTimeout:        "timeout",
	http.StatusRequestEntityTooLarge: "too_large",
	http.StatusUnsupportedMediaType:  "unsupported_media_type",
	http.StatusUnprocessableEntity:   "invalid",
}

// humaError makes huma's own refusals look like all others.
func humaError(status int, msg string, errs ...error) huma.StatusError {
	for _, err := range errs {
		if p, ok := errors.AsType[*problem](err); ok {
			return p
		}
		if fault.As(err) != nil {
			return problemOf(err)
		}
	}
	if status >= http.StatusInternalServerError {
		return newProblem(status, "internal", "something went wrong in the server; its log tells more")
	}
	code := codes[status]
	if code == "" {
		code = "invalid"
	}
	p := newProblem(status, code, msg)
	var details []string
	for _, err := range errs {
		if d, ok := errors.AsType[*huma.ErrorDetail](err); ok {
			loc := d.Location
			if loc == "" {
				loc = "body"
			}
			p.Errors = append(p.Errors, api.ProblemField{Location: loc, Message: d.Message})
			details = append(details, loc+": "+d.Message)
		} else if err != nil {
			details = append(details, err.Error())
		}
	}
	if len(details) > 0 {
		p.Detail = strings.Join(details, "; ")
	}
	return p
}

// writeProblem answers outside huma's handlers.
func writeProblem(w http.ResponseWriter, p *problem) {
	maps.Copy(w.Header(), p.header)
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // the client is gone otherwise
}
