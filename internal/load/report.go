package load

import (
	"fmt"
	"time"
)

// Report is what a scenario found out. As JSON it is for programs; Rows are
// for people.
type Report struct {
	Scenario string `json:"scenario"`
	// Machine is where the agents ran, and the server too when it was measured.
	Machine   string `json:"machine"`
	Server    string `json:"server"`
	Transport string `json:"transport,omitempty"`
	Agents    int    `json:"agents"`
	Result    Result `json:"result"`
	// Failures say what was lost; there are none when all is well.
	Failures []string `json:"failures,omitempty"`
}

// Result is the part of a report that is its scenario's own.
type Result interface {
	// Rows are the figures for people.
	Rows() []Row
	failures() []string
}

// Row is one figure: what it is, its value, and what to know about it.
type Row struct{ Name, Value, Note string }

func millis(ms float64) string {
	switch {
	case ms < 10:
		return fmt.Sprintf("%.2f ms", ms)
	case ms < 1000:
		return fmt.Sprintf("%.0f ms", ms)
	}
	return fmt.Sprintf("%.2f s", ms/1000)
}

func seconds(s float64) string { return fmt.Sprintf("%.2f s", s) }

func mebibytes(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

func kibibytes(n float64) string { return fmt.Sprintf("%.1f KiB", n/(1<<10)) }

// quantileRows are a row for each quantile.
func quantileRows(name string, q Quantiles) []Row {
	if q.Count == 0 {
		return nil
	}
	return []Row{
		{name + ", p50", millis(q.P50), ""},
		{name + ", p90", millis(q.P90), ""},
		{name + ", p99", millis(q.P99), ""},
		{name + ", p99.9", millis(q.P999), ""},
		{name + ", longest", millis(q.Max), fmt.Sprintf("of %d", q.Count)},
	}
}

// usageRows are what the server and the simulation used.
func usageRows(server, self *Usage, unseen string) []Row {
	var rows []Row
	if server != nil {
		rows = append(rows,
			Row{"server's memory", mebibytes(server.RSSAfter), fmt.Sprintf("%s before, %s at the most", mebibytes(server.RSSBefore), mebibytes(server.RSSPeak))},
			Row{"server's processor time", seconds(server.CPUSeconds), fmt.Sprintf("%.2f cores busy", server.Cores)},
			Row{"server's threads and files", fmt.Sprintf("%d, %d", server.Threads, server.Files), ""},
		)
	} else if unseen != "" {
		rows = append(rows, Row{"server's process", "not measured", unseen})
	}
	if self != nil {
		rows = append(rows,
			Row{"simulation's memory", mebibytes(self.RSSAfter), ""},
			Row{"simulation's processor time", seconds(self.CPUSeconds), fmt.Sprintf("%.2f cores busy", self.Cores)},
		)
	}
	return rows
}

// Costs are what the processes used, as far as they could be measured.
type Costs struct {
	// ServerUsage is missing when ServerUnseen says why.
	ServerUsage  *Usage `json:"server,omitempty"`
	ServerUnseen string `json:"serverUnseen,omitempty"`
	Simulation   *Usage `json:"simulation,omitempty"`
}

func (r *run) costs(m *meters) (Costs, error) {
	server, self, err := m.stop()
	return Costs{ServerUsage: server, ServerUnseen: r.unseen, Simulation: self}, err
}

func (c *Costs) rows() []Row { return usageRows(c.ServerUsage, c.Simulation, c.ServerUnseen) }

// lostConnections is the failure that any scenario may have.
func lostConnections(n int, why error) []string {
	if n == 0 {
		return nil
	}
	return []string{fmt.Sprintf("%d connections were lost, the last one because: %v", n, why)}
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
