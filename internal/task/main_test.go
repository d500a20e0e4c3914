package task_test

import (
	"flag"
	"os"
	"testing"
)

// TestMain keeps the property tests short, for each step of theirs is durable;
// -rapid.checks on the command line asks for more.
func TestMain(m *testing.M) {
	flag.Parse()
	asked := false
	flag.Visit(func(f *flag.Flag) { asked = asked || f.Name == "rapid.checks" })
	if !asked {
		_ = flag.Set("rapid.checks", "30") // it is a number
	}
	os.Exit(m.Run())
}
