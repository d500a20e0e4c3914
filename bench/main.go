// Command bench measures Stella from outside, with the real programs as
// processes, and prints a table with the machine's description. It needs
// bin/stella and bin/stella-agent (`make bench` builds them first). The agents
// are simulated by package load, unless it is the agent that is measured.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"stella-ops.org/stella/internal/daemon"
	"stella-ops.org/stella/internal/load"
)

// row is one line of the table.
type row struct {
	what   string
	figure string
	goal   string
	met    bool
	note   string
}

// bench is one measurement. It returns no row for what cannot be measured
// here, and says so.
type bench struct {
	name string
	run  func(ctx context.Context, e *env) ([]row, error)
}

func main() {
	only := flag.String("only", "", "run only the measurements whose name contains this")
	flag.Parse()
	ctx, stop := daemon.SignalContext(context.Background())
	defer stop()
	if err := run(ctx, *only); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, only string) error {
	e, err := newEnv()
	if err != nil {
		return err
	}
	defer e.close()
	var rows []row
	var failed error
	for _, b := range []bench{
		{"enrolment", enrolment},
		{"renewals", renewals},
		{"revocation", revocation},
		{"idle", idle},
		{"heartbeat", heartbeats},
		{"fanout", fanout},
		{"dispatch", dispatch},
		{"reconnect", reconnect},
		{"agent", agentSize},
		{"docker", dockerDeploy},
		{"compose", composeDeploy},
		{"ssh", sshDeploy},
	} {
		if !strings.Contains(b.name, only) {
			continue
		}
		fmt.Fprintf(os.Stderr, "measuring %s …\n", b.name)
		// One that fails takes nothing away from the others.
		got, err := b.run(ctx, e)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", b.name, err))
		}
		rows = append(rows, got...)
		if ctx.Err() != nil {
			break
		}
	}
	fmt.Printf("%s; the load comes from the same machine\n\n", load.Machine())
	table(rows)
	return failed
}

func table(rows []row) {
	w := []int{len("measured"), len("figure"), len("goal")}
	for _, r := range rows {
		w[0], w[1], w[2] = max(w[0], len([]rune(r.what))), max(w[1], len([]rune(r.figure))), max(w[2], len([]rune(r.goal)))
	}
	line := func(a, b, c, d, e string) {
		fmt.Println(strings.TrimRight(fmt.Sprintf("%-*s  %*s  %-*s  %-4s  %s", w[0], a, w[1], b, w[2], c, d, e), " "))
	}
	line("measured", "figure", "goal", "met", "how")
	for _, r := range rows {
		met := "no"
		if r.met {
			met = "yes"
		}
		if r.goal == "" {
			met = ""
		}
		line(r.what, r.figure, r.goal, met, r.note)
	}
}

func ms(d time.Duration) string { return millis(float64(d.Microseconds()) / 1000) }

func millis(v float64) string { return fmt.Sprintf("%.2f ms", v) }
