package demo

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// cleanTimeout is how long the cleaning up may take in all.
	cleanTimeout = 30 * time.Second
	stopGrace    = 5 * time.Second
	tailLines    = 12
)

// onEnd has something done when the story is over: what was begun last is
// undone first.
func (s *story) onEnd(f func(ctx context.Context)) { s.cleaning = append(s.cleaning, f) }

// watch takes care of a process: it is stopped at the end, and its log is
// shown when something goes wrong.
func (s *story) watch(p *process) {
	s.procs = append(s.procs, p)
	s.onEnd(func(context.Context) { p.stop(stopGrace) })
}

func (s *story) clean(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, cleanTimeout)
	defer cancel()
	for _, f := range slices.Backward(s.cleaning) {
		f(ctx)
	}
	s.cleaning = nil
}

// explain shows the logs that may tell why the story broke off.
func (s *story) explain(err error) {
	if e, ok := errors.AsType[*processError](err); ok && e.process != nil {
		s.show.tail(e.process.name, tail(e.process.log, tailLines))
		return
	}
	for _, p := range s.procs {
		name := p.name
		if !p.running() {
			name += " (which has ended)"
		}
		s.show.tail(name, tail(p.log, tailLines))
	}
}

// stopByPidFiles ends the processes of the demo's service that files name. One
// that has ended may have left its number to somebody else's process.
func stopByPidFiles(pattern string) {
	files, err := filepath.Glob(pattern)
	if err != nil {
		return
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err == nil && pid > 1 && alive(pid) && strings.Contains(commandLine(pid), "demo-app") {
			endPid(pid, stopGrace)
		}
	}
}

// endPid ends a process that is not a child: nobody tells when it has ended,
// so it is looked at.
func endPid(pid int, grace time.Duration) {
	terminate(pid)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(grace)
	for alive(pid) {
		select {
		case <-limit:
			kill(pid)
			return
		case <-tick.C:
		}
	}
}
