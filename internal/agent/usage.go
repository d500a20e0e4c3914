package agent

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/shirou/gopsutil/v4/cpu"
	"github.com/shirou/gopsutil/v4/disk"
	"github.com/shirou/gopsutil/v4/load"
	"github.com/shirou/gopsutil/v4/mem"
	"github.com/shirou/gopsutil/v4/process"

	"stella-ops.org/stella/api"
)

// usageMeter reads the load of the machine. It is used by one goroutine.
type usageMeter struct {
	at   time.Time
	last *api.ResourceUsage
}

// read returns the load now; what cannot be read here is left out. Calls in
// quick succession get the same answer: CPU use is measured between two.
func (m *usageMeter) read(ctx context.Context, dataDir string) *api.ResourceUsage {
	if m.last != nil && time.Since(m.at) < 5*time.Second {
		return m.last
	}
	u := &api.ResourceUsage{}
	if p, err := cpu.PercentWithContext(ctx, 0, false); err == nil && len(p) == 1 {
		u.CPUPercent = round(p[0])
	}
	if v, err := mem.VirtualMemoryWithContext(ctx); err == nil {
		u.MemoryPercent, u.MemoryTotalBytes = round(v.UsedPercent), v.Total
	}
	if d, err := disk.UsageWithContext(ctx, dataDir); err == nil {
		u.DiskPercent, u.DiskFreeBytes = round(d.UsedPercent), d.Free
	}
	if l, err := load.AvgWithContext(ctx); err == nil {
		u.Load1 = l.Load1
	}
	if p, err := process.NewProcessWithContext(ctx, int32(os.Getpid())); err == nil { //nolint:gosec // process ids fit
		if mi, err := p.MemoryInfoWithContext(ctx); err == nil {
			u.AgentMemoryBytes = mi.RSS
		}
	}
	m.at, m.last = time.Now(), u
	return u
}

func round(percent float64) float64 { return float64(int(percent*10+0.5)) / 10 }

// overLimit says why no new task should come, or is empty.
func overLimit(c *Config, u *api.ResourceUsage) string {
	for _, r := range []struct {
		name  string
		limit int
		now   float64
	}{{"cpu", c.CPUPercent, u.CPUPercent}, {"memory", c.MemoryPercent, u.MemoryPercent}, {"disk", c.DiskPercent, u.DiskPercent}} {
		if r.limit > 0 && r.now > float64(r.limit) {
			return fmt.Sprintf("%s use of %.0f%% is above the limit of %d%%", r.name, r.now, r.limit)
		}
	}
	return ""
}
