package cli

import (
	"iter"

	"github.com/spf13/pflag"
)

// listFlags are those that all listings have.
type listFlags struct {
	filter, sort string
	limit        int // 0 for all
}

// add defines the flags; limit is how many are shown when nobody says.
func (l *listFlags) add(flags *pflag.FlagSet, limit int) {
	flags.StringVar(&l.filter, "filter", "", "only those that match this `expression`; docs/filter.md has the language and the fields")
	flags.StringVar(&l.sort, "sort", "", "the order: `fields` with commas between them, a minus before those that go down")
	flags.IntVar(&l.limit, "limit", limit, "how many at the most; 0 for all")
}

// take reads a listing until there are enough.
func take[T any](all iter.Seq2[T, error], limit int) ([]T, error) {
	list := []T{}
	for item, err := range all {
		if err != nil {
			return nil, err
		}
		if list = append(list, item); len(list) == limit {
			break
		}
	}
	return list, nil
}

// pageSize asks for no more than is wanted, and for no more than a page holds.
func pageSize(limit int) int {
	if limit <= 0 || limit > 500 {
		return 500
	}
	return limit
}
