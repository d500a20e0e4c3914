package client

import (
	"iter"
	"net/url"
	"strconv"
)

// pages walks a paged list: one request for each page, and none for a page
// that nobody asks for. An error ends the walk.
func pages[T any](fetch func(cursor string) (items []T, next string, err error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		cursor := ""
		for {
			items, next, err := fetch(cursor)
			if err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, item := range items {
				if !yield(item, nil) {
					return
				}
			}
			if next == "" || next == cursor {
				return
			}
			cursor = next
		}
	}
}

// query builds the parameters of a list; what is empty is left out.
type query struct{ values url.Values }

func newQuery(filter, sort, cursor string, limit int) query {
	q := query{values: url.Values{}}
	q.set("filter", filter)
	q.set("sort", sort)
	q.set("cursor", cursor)
	if limit > 0 {
		q.set("limit", strconv.Itoa(limit))
	}
	return q
}

func (q query) set(name, value string) {
	if value != "" {
		q.values.Set(name, value)
	}
}

func (q query) labels(labels map[string]string) {
	for k, v := range labels {
		q.values.Add("label", k+"="+v)
	}
}
