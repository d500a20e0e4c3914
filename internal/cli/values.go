package cli

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// seconders is a duration flag that the API takes in whole seconds.
type seconders struct {
	value int64
	text  string
}

// String returns what was given.
func (s *seconders) String() string { return s.text }

// Type is how help names the value.
func (s *seconders) Type() string { return "duration" }

// Set takes a duration, as in 90s or 10m.
func (s *seconders) Set(text string) error {
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return errors.New("write it as in 90s or 10m")
	}
	s.value, s.text = seconds(d), text
	return nil
}

// byteSize is a flag of a size, as Docker takes it: 512m, 1.5g, 1048576.
type byteSize struct {
	value int64
	text  string
}

// String returns what was given.
func (b *byteSize) String() string { return b.text }

// Type is how help names the value.
func (b *byteSize) Type() string { return "size" }

// Set takes a number with a unit of b, k, m or g.
func (b *byteSize) Set(text string) error {
	number := strings.TrimSuffix(strings.TrimSuffix(strings.ToLower(text), "b"), "i")
	factor := 1.0
	if n := len(number); n > 0 {
		if i := strings.IndexByte("kmgt", number[n-1]); i >= 0 {
			factor = float64(int64(1) << (10 * (i + 1)))
			number = number[:n-1]
		}
	}
	v, err := strconv.ParseFloat(number, 64)
	if err != nil || v <= 0 || v*factor > 1<<60 {
		return errors.New("write it as in 512m or 1.5g")
	}
	b.value, b.text = int64(v*factor), text
	return nil
}

// cpus is a flag of a number of processors.
type cpus float64

// String returns what was given.
func (c *cpus) String() string {
	if *c == 0 {
		return ""
	}
	return fmt.Sprint(float64(*c))
}

// Type is how help names the value.
func (c *cpus) Type() string { return "number" }

// Set takes a number above zero.
func (c *cpus) Set(text string) error {
	v, err := strconv.ParseFloat(text, 64)
	if err != nil || !(v > 0 && v < 10000) {
		return errors.New("write it as in 0.5")
	}
	*c = cpus(v)
	return nil
}
