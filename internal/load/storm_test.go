package load_test

import (
	"context"
	"testing"
	"time"

	"stella-ops.org/stella/internal/load"
	"stella-ops.org/stella/internal/server"
	"stella-ops.org/stella/internal/testkit"
)

// A fleet that has lost its server comes back at the rate that the server has
// set, and nobody is called stale for it.
func TestFleetComesBackAtTheServersRate(t *testing.T) {
	t.Parallel()
	const agents, rate = 240, 40
	cp := testkit.StartServer(t, func(c *server.Config) {
		c.ReconnectRate, c.StaleAfter, c.HeartbeatInterval = rate, 30*time.Second, 20*time.Second
	})
	o := options(cp, load.WebSocket, "")
	o.Agents = agents
	report, err := load.Storm(t.Context(), o, load.StormOptions{Wait: time.Minute, Limit: time.Minute, Restart: func(context.Context) error {
		// Most agents connected when the fleet was smaller, and have not beaten
		// since: the server tells them as it stops.
		if err := cp.Stop(); err != nil {
			return err
		}
		cp.Start() //nolint:contextcheck // the server outlives the scenario
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	res, ok := report.Result.(*load.StormResult)
	if !ok || res.Back != agents || res.Stale != 0 {
		t.Fatalf("%+v", report)
	}
	if window := float64(agents) / rate; res.WindowSeconds != window || res.AllBackSeconds > 4*window {
		t.Errorf("they were to spread over %v s, and were back after %v", res.WindowSeconds, res.AllBackSeconds)
	}
	// Chance makes some seconds fuller than others; without the window, all
	// would be back within one.
	if res.PeakPerSecond > 2*rate {
		t.Errorf("%d came back in one second, and the server asked for %d", res.PeakPerSecond, rate)
	}
}
