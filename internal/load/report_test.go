package load

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"stella-ops.org/stella/api"
)

func TestQuantiles(t *testing.T) {
	t.Parallel()
	l := newLatencies()
	for i := range 1000 {
		l.record(time.Duration(i+1) * time.Millisecond)
	}
	l.record(time.Hour) // longer than what is told apart
	l.record(-time.Second)
	q := l.quantiles()
	near := func(have, want float64) bool { return have > want*0.99 && have < want*1.01 }
	if q.Count != 1002 || !near(q.P50, 500) || !near(q.P99, 991) || !near(q.Max, 600_000) {
		t.Errorf("%+v", q)
	}
}

// The search ends near what the server can bear, whatever that is.
func TestHighestRate(t *testing.T) {
	t.Parallel()
	for _, capacity := range []float64{2500, 10_000, 33_000, 100_000} {
		tried := 0
		best, err := highest(2000, func(rate float64) (HeartbeatStep, error) {
			tried++
			return HeartbeatStep{AskedRate: rate, Sustained: rate <= capacity}, nil
		})
		if err != nil || best.AskedRate > capacity || best.AskedRate < capacity*0.9 || tried > 20 {
			t.Errorf("capacity %.0f: found %.0f in %d steps, %v", capacity, best.AskedRate, tried, err)
		}
	}
	best, err := highest(2000, func(rate float64) (HeartbeatStep, error) { return HeartbeatStep{AskedRate: rate}, nil })
	if err != nil || best.AskedRate != 0 {
		t.Errorf("nothing is sustained: %+v, %v", best, err)
	}
	broken := errors.New("broken")
	if _, err := highest(2000, func(float64) (HeartbeatStep, error) { return HeartbeatStep{}, broken }); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
}

func TestStoreIsCheckedForEachAgent(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	later, before := at.Add(time.Millisecond), at.Add(-time.Millisecond)
	want := map[string]time.Time{"kept": at, "later": at, "older": at, "never": at, "unknown": at}
	stored := map[string]api.Agent{"kept": {LastHeartbeat: &at}, "later": {LastHeartbeat: &later}, "older": {LastHeartbeat: &before}, "never": {}}
	if n := notStored(want, stored); n != 3 {
		t.Errorf("%d are missing, want 3", n)
	}
}

func TestStormIsCountedFromTheFirstLoss(t *testing.T) {
	t.Parallel()
	at := func(s float64) time.Time { return time.Unix(1000, 0).Add(time.Duration(s * float64(time.Second))) }
	var s StormResult
	s.count([]time.Time{at(5), at(2), at(4.5), at(4.2), at(9)}, []time.Time{at(1.5), at(1), at(2)})
	want := StormResult{Lost: 3, FirstBackSeconds: 1, HalfBackSeconds: 3.5, AllBackSeconds: 8, PeakPerSecond: 3}
	if diff := cmp.Diff(want, s, cmp.AllowUnexported(StormResult{})); diff != "" {
		t.Error(diff)
	}
	var none StormResult
	none.count(nil, nil)
	if none.Lost != 0 || none.AllBackSeconds != 0 {
		t.Errorf("%+v", none)
	}
}

// What was lost is said, and makes the program fail; what was not is not.
func TestReportsSayWhatWasLost(t *testing.T) {
	t.Parallel()
	why := errors.New("link_replaced: a newer connection")
	for _, c := range []struct {
		name   string
		result Result
		says   []string
	}{
		{"all well", &HeartbeatResult{HeartbeatStep: HeartbeatStep{AskedRate: 100, Asked: 10, Acked: 10}, Checked: 10}, nil},
		{"unanswered", &HeartbeatResult{HeartbeatStep: HeartbeatStep{AskedRate: 100, Asked: 10, Acked: 7, Lost: 3}}, []string{"3 of 10 heartbeats"}},
		{"unstored", &HeartbeatResult{Checked: 10, Missing: 4}, []string{"of 4 agents the store does not know"}},
		{"cut", &HeartbeatResult{Lost: 2, lossCause: why}, []string{"2 connections were lost", "link_replaced"}},
		{"overload is looked for", &HeartbeatResult{lookedForBest: true, Lost: 2, lossCause: why, HeartbeatStep: HeartbeatStep{AskedRate: 100}}, nil},
		{"nothing sustained", &HeartbeatResult{lookedForBest: true}, []string{"begin lower"}},
		{"idle", &IdleResult{Lost: 1, lossCause: why}, []string{"1 connections"}},
		{"fanout", &FanoutResult{Rounds: []FanoutRound{{Recipients: 9, Agents: 5, Received: 5, Acknowledged: 5}}}, nil},
		{"fanout lost", &FanoutResult{Rounds: []FanoutRound{{Recipients: 5, Agents: 5, Received: 4, Acknowledged: 3}}}, []string{"of 5 agents, 4", "of 4 that received the command, 3"}},
		{"dispatch", &DispatchResult{Sent: 5, Received: 3, Finished: 2, Refused: 1, refusal: why}, []string{"1 of 5 tasks were refused", "1 of 5 tasks did not reach", "1 of 3 tasks were not acknowledged"}},
		{"storm", &StormResult{agents: 5, Back: 4, Stale: 1, limit: time.Minute}, []string{"1 of 5 agents were not back within 1m0s", "1 agents turned stale"}},
		{"enrol", &EnrolResult{}, nil},
	} {
		have := c.result.failures()
		if len(have) != len(c.says) && (len(c.says) == 0 || len(have) == 0) {
			t.Errorf("%s: %q", c.name, have)
		}
		text := strings.Join(have, "\n")
		for _, s := range c.says {
			if !strings.Contains(text, s) {
				t.Errorf("%s: %q does not say %q", c.name, text, s)
			}
		}
		for _, row := range c.result.Rows() {
			if row.Name == "" || row.Value == "" {
				t.Errorf("%s: an empty row: %+v", c.name, row)
			}
		}
	}
}

// Programs read the JSON: its names are a promise.
func TestReportAsJSON(t *testing.T) {
	t.Parallel()
	data, err := json.Marshal(&Report{Scenario: "heartbeat", Result: &HeartbeatResult{
		HeartbeatStep: HeartbeatStep{AskedRate: 5, Lost: 1, Costs: Costs{ServerUsage: &Usage{RSSAfter: 7}}}, Lost: 2,
	}, Failures: []string{"x"}})
	if err != nil {
		t.Fatal(err)
	}
	var have map[string]any
	if err := json.Unmarshal(data, &have); err != nil {
		t.Fatal(err)
	}
	result, _ := have["result"].(map[string]any)
	server, _ := result["server"].(map[string]any)
	if have["scenario"] != "heartbeat" || result["askedRate"] != 5.0 || result["lost"] != 1.0 || result["lostConnections"] != 2.0 || server["rssAfterBytes"] != 7.0 {
		t.Errorf("%s", data)
	}
}
