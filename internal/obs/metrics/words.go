package metrics

import "sync"

// Words bounds the values of a label that others choose, as an environment's
// name: each value is a series, in this process and in whatever keeps its
// metrics. It is safe for concurrent use.
type Words struct {
	most int

	mu    sync.Mutex
	known map[string]bool
}

// NewWords returns words of which there are never more than most.
func NewWords(most int) *Words { return &Words{most: most, known: map[string]bool{}} }

// Others stands for the words beyond those that are kept apart.
const Others = "others"

// Of is a word, or Others when there are as many as may be.
func (w *Words) Of(word string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.known[word] {
		if len(w.known) >= w.most {
			return Others
		}
		w.known[word] = true
	}
	return word
}
