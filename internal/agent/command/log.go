package command

import (
	"context"
	"log/slog"
	"strings"
	"sync"

	"stella-ops.org/stella/api"
)

// logTo writes what an executable says on its standard error to the agent's
// log.
type logTo struct {
	ctx context.Context //nolint:containedctx // of the one run that it is for
	log *slog.Logger
	of  *api.AgentCommand
	end *lastLine
}

// Line implements deploy.Log.
func (l logTo) Line(stream, text string) {
	if stream == "stderr" {
		l.end.set(text)
	}
	if stream == "stderr" || stream == "system" {
		l.log.InfoContext(l.ctx, "a command says", "command", l.of.ID, "type", l.of.Type, "text", text)
	}
}

// Phase implements deploy.Log.
func (logTo) Phase(string, string) {}

// lastLine keeps the last line that says anything.
type lastLine struct {
	mu   sync.Mutex
	text string
}

func (l *lastLine) set(text string) {
	if text = strings.TrimSpace(text); text == "" {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = text
}

// String returns the line.
func (l *lastLine) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text
}
