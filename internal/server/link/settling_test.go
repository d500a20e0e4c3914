package link

import "testing"

func TestSettling(t *testing.T) {
	t.Parallel()
	var s settling
	looks := func(links, n int) (due int) {
		for range n {
			if s.due(links) {
				due++
			}
		}
		return due
	}
	if n := looks(0, 20) + looks(100, 20); n != 0 {
		t.Errorf("a small fleet made %d collections", n)
	}
	for links := 100; links < 5000; links += 500 {
		if s.due(links) {
			t.Errorf("while the fleet comes, at %d", links)
		}
	}
	if n := looks(5000, 4); n != 0 {
		t.Error("before it has settled")
	}
	if n := looks(5000, 100) + looks(5010, 100) + looks(4990, 100); n != 1 {
		t.Errorf("%d times for one fleet", n)
	}
	if n := looks(0, 100); n != 1 {
		t.Errorf("%d times when it has gone", n)
	}
}
