package rest

import (
	"context"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"stella-ops.org/stella/internal/filter"
)

// Page is the part of a listing's query that all listings share: which rows,
// in what order, and which part of them.
type Page struct {
	Filter string `query:"filter" maxLength:"2000" doc:"What must match, as in name ~ \"web-*\" and not (environment in (dev, test)). Times may be told from now, as in createdAt > -7d."`
	Sort   string `query:"sort" maxLength:"200" doc:"The order: fields with commas between them, a minus before those that go down."`
	Cursor string `query:"cursor" maxLength:"8192" doc:"What the page before gave as next; it holds for the same order only."`
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"How many at the most."`
}

func (p *Page) page() *Page { return p }

// paged is the input of a listing: a struct in which Page is embedded.
type paged[I any] interface {
	*I
	page() *Page
}

// list adds a listing. fn gets what was asked for, and returns the rows and
// the answer; it is given what that answer has as next.
func list[I any, P paged[I], R filter.Row, T any](s *Server, op huma.Operation, schema *filter.Schema,
	find func(ctx context.Context, in *I, q filter.Query) ([]R, error),
	view func(ctx context.Context, in *I, found []R, next string) T,
) {
	handle(s, op, func(ctx context.Context, in *I) (T, error) {
		var none T
		p := P(in).page()
		q, err := schema.Query(filter.Request{Filter: p.Filter, Sort: p.Sort, Cursor: p.Cursor}, s.now())
		if err != nil {
			return none, err
		}
		found, err := find(ctx, in, q)
		if err != nil {
			return none, err
		}
		next := ""
		if len(found) == p.Limit {
			next = schema.Next(q, found[len(found)-1])
		}
		return view(ctx, in, found, next), nil
	})
	// What a listing can be asked by differs, so the document says it there.
	for _, param := range s.huma.OpenAPI().Paths[op.Path].Get.Parameters {
		switch param.Name {
		case "filter":
			param.Description += " The fields: " + schema.Describe() + "."
		case "sort":
			param.Description += " The fields: " + strings.Join(schema.Sortable(), ", ") + ". It is " + schema.Order + " when left out."
		}
	}
}
