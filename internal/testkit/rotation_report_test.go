package testkit_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// rotationReportVariable names a file that gets the figures of the suite.
const rotationReportVariable = "STELLA_ROTATION_REPORT"

// costMeter is what the test's process, in which the server and all agents run,
// has used of the machine.
type costMeter struct {
	t     *testing.T
	began time.Time
	used  time.Duration
}

func startCostMeter(t *testing.T) *costMeter {
	t.Helper()
	return &costMeter{t: t, began: time.Now(), used: cpuTime(t)}
}

// read returns the mean of processors that were busy, the memory that the
// process has from the system, and how many goroutines there are.
func (m *costMeter) read() (cpus float64, memory uint64, goroutines int) {
	m.t.Helper()
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	return (cpuTime(m.t) - m.used).Seconds() / time.Since(m.began).Seconds(), mem.Sys - mem.HeapReleased, runtime.NumGoroutine()
}

// conclude prints the figures, and keeps them if somebody wants them.
func (rig *rotationRig) conclude(size rotationSize, began time.Time) {
	rig.Helper()
	cpus, memory, goroutines := rig.cost.read()
	var b strings.Builder
	row := func(what, format string, v ...any) { fmt.Fprintf(&b, "| %s | %s |\n", what, fmt.Sprintf(format, v...)) }
	fmt.Fprintf(&b, "| | |\n| --- | --- |\n")
	row("agents, a third over each carrier", "%d", size.agents)
	row("time under load", "%s", size.lasts)
	row("life of a certificate", "%s", rotationLife)
	row("tasks, each of which ran once and succeeded", "%d", rig.load.made())
	row("of them longer than several certificates", "%d, of %s", len(rig.names)/4, size.lasts*3/4)
	row("renewals", "%d", rig.renewals.count)
	row("time between two of an agent that no rotation asked for", "%.1f s to %.1f s", rig.renewals.shortest.Seconds(), rig.renewals.longest.Seconds())
	for _, name := range counted {
		row(name, "%d", rig.watch.of(undisturbed, name))
	}
	if soak() {
		for _, name := range counted {
			row("while the server was restarted: "+name, "%d", rig.watch.of(restarting, name))
		}
	}
	if stood := rig.standstills.within(began, time.Now()); stood > 0 {
		row("the machine stood still, with what came of it left out above", "%s", stood.Round(time.Millisecond))
	}
	row("processors in use, of server and agents together", "%.2f", cpus)
	row("memory, of server and agents together", "%d MB", memory>>20)
	row("goroutines, of server and agents together", "%d", goroutines)
	rig.Logf("in %s:\n%s", time.Since(began).Round(time.Second), b.String())
	if path := os.Getenv(rotationReportVariable); path != "" && !rig.Failed() {
		if err := os.WriteFile(filepath.Clean(path), []byte(strings.TrimSpace(b.String())+"\n"), 0o644); err != nil {
			rig.Error(err)
		}
	}
}
