package testkit_test

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// soak says that every point is struck, and not some of them.
func soak() bool { return os.Getenv("STELLA_SOAK") == "1" }

// reportVariable names a file that gets the table of points and outcomes.
const reportVariable = "STELLA_RELIABILITY_REPORT"

// TestCrashMatrix runs real agents against real targets and strikes before and
// behind every write of their journals: the agent is killed, the server is
// killed, or the link between them is cut. Whatever is struck, the target runs
// exactly the old version or the new one, nothing is left over, the task's end
// says which, and hooks ran once at the most.
//
// Every run strikes some points of each story, others each time; `make soak`
// strikes all and keeps the table.
func TestCrashMatrix(t *testing.T) {
	var report crashReport
	t.Cleanup(func() { report.conclude(t) })
	for _, name := range slices.Sorted(maps.Keys(crashKinds)) {
		for _, s := range stories {
			t.Run(name+"/"+strings.ReplaceAll(s.name, " ", "-"), func(t *testing.T) {
				t.Parallel()
				rig := newCrashRig(t, crashKinds[name](t))
				points := rig.points(s)
				cell := report.cell(name, s.name, points)
				for _, b := range blows {
					for _, k := range chosen(t, points, b) {
						end, task := rig.strike(s, b, k)
						cell.note(b, k, end)
						if strings.HasPrefix(end, "wrong") {
							t.Errorf("%s at %s: %s (task %s %s: %s)", b, points[k], end, task.ID, task.State, task.Reason)
							// What is wrong now would make all that follows wrong.
							rig = newCrashRig(t, crashKinds[name](t))
						}
					}
				}
			})
		}
	}
}

// chosen are the points that are struck in this run.
func chosen(t *testing.T, points []string, b blow) []int {
	if soak() {
		all := make([]int, len(points))
		for i := range all {
			all[i] = i
		}
		return all
	}
	n := 4
	if b != agentKilled {
		n = 1
	}
	seed := uint64(time.Now().UnixNano())
	picked := rand.New(rand.NewPCG(seed, 0)).Perm(len(points))[:min(n, len(points))]
	slices.Sort(picked)
	t.Logf("%s: points %v of %d", b, picked, len(points))
	return picked
}

// crashReport is how every strike ended.
type crashReport struct {
	mu    sync.Mutex
	cells []*crashCell
}

// crashCell is one story on one kind of target.
type crashCell struct {
	kind, story string
	points      []string
	mu          sync.Mutex
	ends        map[blow]map[int]string
}

func (r *crashReport) cell(kind, story string, points []string) *crashCell {
	c := &crashCell{kind: kind, story: story, points: points, ends: map[blow]map[int]string{}}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cells = append(r.cells, c)
	return c
}

func (c *crashCell) note(b blow, k int, end string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ends[b] == nil {
		c.ends[b] = map[int]string{}
	}
	c.ends[b][k] = end
}

// count counts the ends of a kind of strike.
func (c *crashCell) count(b blow) (old, now, wrong int) {
	for _, end := range c.ends[b] {
		switch end {
		case "old":
			old++
		case "new":
			now++
		default:
			wrong++
		}
	}
	return old, now, wrong
}

// conclude prints the sums, and writes the table if somebody wants it.
func (r *crashReport) conclude(t *testing.T) {
	slices.SortFunc(r.cells, func(a, b *crashCell) int { return strings.Compare(a.kind+"\x00"+a.story, b.kind+"\x00"+b.story) })
	var sums, tables bytes.Buffer
	strikes, wrongs := 0, 0
	fmt.Fprintf(&sums, "| target | what was under way | struck | strikes | old version runs | new version runs | wrong ends |\n| --- | --- | --- | --- | --- | --- | --- |\n")
	for _, c := range r.cells {
		for _, b := range blows {
			old, now, wrong := c.count(b)
			strikes, wrongs = strikes+old+now+wrong, wrongs+wrong
			fmt.Fprintf(&sums, "| %s | %s | %s | %d | %d | %d | %d |\n", c.kind, c.story, b, old+now+wrong, old, now, wrong)
		}
		fmt.Fprintf(&tables, "\n### %s: %s\n\n| point | %s | %s | %s |\n| --- | --- | --- | --- |\n", c.kind, c.story, blows[0], blows[1], blows[2])
		for k, name := range c.points {
			fmt.Fprintf(&tables, "| %s |", pointName(name))
			for _, b := range blows {
				fmt.Fprintf(&tables, " %s |", c.ends[b][k])
			}
			fmt.Fprintln(&tables)
		}
	}
	t.Logf("%d strikes, %d wrong ends\n%s", strikes, wrongs, sums.String())
	path := os.Getenv(reportVariable)
	if path == "" {
		return
	}
	text := fmt.Sprintf("%d strikes, %d wrong ends.\n\n%s\n## Every point\n%s", strikes, wrongs, sums.String(), tables.String())
	if err := os.WriteFile(filepath.Clean(path), []byte(text), 0o644); err != nil {
		t.Error(err)
	}
}

// pointName makes words of a line of the trace, as in
// "7 before switch done=false committed=false undoing=false".
func pointName(line string) string {
	fields := strings.Fields(line)
	if len(fields) < 5 {
		return line
	}
	when, step := fields[1], fields[2]
	if strings.Contains(step, "=") {
		step = "(nothing)"
	}
	switch step {
	case "accept", "result", "forget":
		what := map[string]string{"accept": "a task was taken up", "result": "it has ended", "forget": "the server has its result"}[step]
		return map[string]string{"before": "before", "after": "behind"}[when] + " the note that " + what
	}
	what := "begins"
	switch {
	case strings.Contains(line, "done=true"):
		what = "is done"
	case strings.Contains(line, "undoing=true"):
		what = "is undone"
	}
	if strings.Contains(line, "undoing=true") && what == "is done" {
		what = "was undone"
	}
	return fmt.Sprintf("%s the note that %s %s", map[string]string{"before": "before", "after": "behind"}[when], step, what)
}
