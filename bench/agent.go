package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"stella-ops.org/stella/api"
)

// agentSize measures what an agent costs its host: its file, and its memory
// when it is connected and has nothing to do.
func agentSize(ctx context.Context, e *env) ([]row, error) {
	info, err := os.Stat("bin/stella-agent")
	if err != nil {
		return nil, err
	}
	c, err := e.server(ctx, "idle")
	if err != nil {
		return nil, err
	}
	defer c.stop()
	if err := e.agent(ctx, c, "idle-agent"); err != nil {
		return nil, err
	}
	agent := e.procs[len(e.procs)-1]
	defer stopProcess(agent)
	const settle = 20 * time.Second
	var highest int64
	for end := time.Now().Add(settle); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		now, err := rss(agent.Process.Pid)
		if err != nil {
			return nil, err
		}
		highest = max(highest, now)
	}
	const mb = 1 << 20
	return []row{
		{"agent's memory, connected and idle", fmt.Sprintf("%.1f MB", float64(highest)/mb), "< 30 MB", highest < 30*mb, "highest VmRSS of the process in 20 s"},
		{"agent's binary", fmt.Sprintf("%.1f MB", float64(info.Size())/mb), "< 40 MB", info.Size() < 40*mb, "static, stripped"},
	}, nil
}

// agent registers and starts an agent process and waits until it is online.
func (e *env) agent(ctx context.Context, c *control, name string, args ...string) error {
	tok, err := c.api.CreateRegistrationToken(ctx, api.RegistrationTokenRequest{})
	if err != nil {
		return err
	}
	args = append([]string{"--register", "--server", c.url, "--data", filepath.Join(e.dir, name+"-data"), "--name", name}, args...)
	_, err = e.start(ctx, name, "bin/stella-agent", []string{"STELLA_BOOTSTRAP_TOKEN=" + tok.Token}, args...)
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if a, err := c.api.Agent(ctx, name); err == nil && a.Transport != "" {
			return nil
		}
		if time.Now().After(deadline) {
			log, _ := os.ReadFile(filepath.Join(e.dir, name+".log"))
			return fmt.Errorf("agent %s was not online within 20 s:\n%s", name, log)
		}
	}
}
