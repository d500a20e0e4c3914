package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"stella-ops.org/stella/internal/agent"
	"stella-ops.org/stella/packaging"
)

// exitNotRegistered is EX_CONFIG of sysexits.h. The units name it: an agent that is
// not registered will not be by being started again.
const exitNotRegistered = 78

// exitCode is what the program ends with for an error.
func exitCode(err error) int {
	if errors.Is(err, agent.ErrNotRegistered) {
		return exitNotRegistered
	}
	return 1
}

// unit writes the unit by which a service manager starts this very program.
func unit(_ context.Context, c *call) error {
	if c.word == "" {
		return errors.New("unit: say for which service manager, systemd or openrc")
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("unit: find this program's own file: %w", err)
	}
	text, err := packaging.Unit(c.word, self)
	if err != nil {
		return fmt.Errorf("unit: %w", err)
	}
	if _, err := io.WriteString(c.out, text); err != nil {
		return fmt.Errorf("unit: %w", err)
	}
	return nil
}
