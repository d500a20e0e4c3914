// Package obs is how the programs are watched: their version, and their
// structured logs. It knows nothing of what they do.
package obs

import (
	"io"
	"log/slog"
	"os"
	"runtime/debug"

	"golang.org/x/term"
)

// Version is the program's version; the build sets it by -ldflags -X.
var Version = "dev"

// BuildVersion is Version, with the commit behind it when only that is known.
func BuildVersion() string {
	if Version != "dev" {
		return Version
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" && len(s.Value) >= 12 {
				return "dev-" + s.Value[:12]
			}
		}
	}
	return Version
}

// NewLogger returns a logger that writes text for a person at a terminal and
// JSON for everything else. format (text, json or empty for by itself) and
// level (debug, info, warn, error) override.
func NewLogger(w io.Writer, format, level string) *slog.Logger {
	var lv slog.Level
	if err := lv.UnmarshalText([]byte(level)); err != nil {
		lv = slog.LevelInfo
	}
	opts := &slog.HandlerOptions{Level: lv}
	if format == "text" || format == "" && IsTerminal(w) {
		return slog.New(slog.NewTextHandler(w, opts))
	}
	return slog.New(slog.NewJSONHandler(w, opts))
}

// IsTerminal reports whether a person reads what is written to w.
func IsTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
