// Package sdnotify tells the service manager how the program does, by the
// protocol of sd_notify(3): systemd listens to it, and so do those that took it
// over, as Podman. Where nobody listens, nothing is told and nothing fails.
//
// It knows nothing of what is told.
package sdnotify

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
	"unicode"

	"github.com/coreos/go-systemd/v22/daemon"
)

// Manager is who listens. Its methods may be called at the same time, and any
// number of times; each sends one datagram, and fails when the listener has not
// taken it within two seconds. It may come to be taken later.
type Manager struct {
	sending chan struct{} // has a value while a datagram is on its way
}

// New returns who listens, or nil when nobody does: $NOTIFY_SOCKET names no socket.
func New() *Manager {
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return nil
	}
	return &Manager{sending: make(chan struct{}, 1)}
}

// Ready says that the program has started, and how it does.
func (m *Manager) Ready(status string) error {
	return m.send(daemon.SdNotifyReady, "STATUS="+line(status))
}

// Status says in a few words how the program does, for `systemctl status`.
// Whatever is in them, they are told as one line, of 500 characters at most.
func (m *Manager) Status(status string) error { return m.send("STATUS=" + line(status)) }

// Stopping says that the program is about to end, and that this takes no longer
// than the given time: the service manager's own patience is extended to that if
// it is less.
func (m *Manager) Stopping(status string, within time.Duration) error {
	return m.send(daemon.SdNotifyStopping, fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", within.Microseconds()), "STATUS="+line(status))
}

// Alive says that the program works. What Watchdog returns must not pass without.
func (m *Manager) Alive() error { return m.send(daemon.SdNotifyWatchdog) }

// Watchdog returns after what time without Alive the service manager ends the
// program, to start it anew; 0 for never. It fails when the variables that say so
// ($WATCHDOG_USEC, $WATCHDOG_PID) cannot be read.
func (*Manager) Watchdog() (time.Duration, error) {
	d, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return 0, fmt.Errorf("the service manager's watchdog: %w", err)
	}
	return d, nil
}

// patient is how long the listener may take. Its queue is short, and whoever writes
// to a full one waits: a listener that has stopped to listen must not keep the
// program from its work, or from ending.
const patient = 2 * time.Second

var errDeaf = errors.New("tell the service manager: it does not listen at the moment")

// send sends one datagram. At most one is left waiting for the listener.
func (m *Manager) send(assignments ...string) error {
	patience := time.NewTimer(patient)
	defer patience.Stop()
	select {
	case m.sending <- struct{}{}:
	case <-patience.C:
		return errDeaf
	}
	sent := make(chan error, 1)
	go func() {
		_, err := daemon.SdNotify(false, strings.Join(assignments, "\n"))
		<-m.sending
		sent <- err
	}()
	select {
	case err := <-sent:
		if err != nil {
			return fmt.Errorf("tell the service manager: %w", err)
		}
		return nil
	case <-patience.C:
		return errDeaf
	}
}

const maxStatus = 500

// line makes a text that may have come from afar one line: another one would be
// an assignment of its own, which the service manager obeys.
func line(text string) string {
	text = strings.Join(strings.FieldsFunc(strings.ToValidUTF8(text, "?"), func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r)
	}), " ")
	if runes := []rune(text); len(runes) > maxStatus {
		return string(runes[:maxStatus-1]) + "…"
	}
	return text
}
