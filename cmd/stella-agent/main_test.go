package main

import (
	"os"
	"strings"
	"testing"
)

// A token that stands where a word is expected is not repeated: what the agent
// says goes into logs.
func TestNoTokenIsRepeated(t *testing.T) {
	t.Chdir(t.TempDir()) // where an agent would keep its data
	const token = "reg_secret_pin"
	for _, args := range [][]string{{"run", token}, {token}, {"--register", token}, {"run", "--register", token}} {
		if err := run(args); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%v: %v", args, err)
		}
	}
	if left, err := os.ReadDir("."); err != nil || len(left) > 0 {
		t.Errorf("an agent was started: %v, %v", left, err)
	}
}
