//go:build linux

package engine_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor/docker/engine"
	"stella-ops.org/stella/internal/testkit/sshd"
)

func TestEngineBehindSSH(t *testing.T) {
	l := newLab(t)
	server := sshd.Start(t, sshd.Options{Config: "ForceCommand docker --host " + l.address + " system dial-stdio"})
	sshProgram(t, server.Key, fmt.Sprintf("[127.0.0.1]:%d %s\n", server.Port, server.HostKeys[0]))
	e := engine.New("")
	defer func() { _ = e.Close() }()
	addr := fmt.Sprintf("ssh://%s@127.0.0.1:%d", server.User, server.Port)
	l.look(t, e, addr)

	server.Stop()
	again := engine.New(addr)
	defer func() { _ = again.Close() }()
	_, err := engine.Networks(t.Context(), again, "", l.label)
	var typed *deploy.Error
	if !errors.As(err, &typed) || typed.Type != api.ErrTargetUnreachable || !strings.Contains(err.Error(), "Connection refused") {
		t.Errorf("the host is away: %v", err)
	}
}
