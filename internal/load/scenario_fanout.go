package load

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
)

// FanoutOptions are what the scenario fanout may be told.
type FanoutOptions struct {
	// Rounds is how many commands are sent, one after the other.
	Rounds int
}

// FanoutResult is what it finds out.
type FanoutResult struct {
	Rounds []FanoutRound `json:"rounds"`
	// Receipt is from the request to an agent's receipt, over all rounds.
	Receipt Quantiles `json:"receipt"`
	// Acknowledged is until the server had every agent's answer, one for each
	// round.
	Acknowledged Quantiles `json:"acknowledged"`
	Lost         int       `json:"lostConnections"`
	Costs

	lossCause error
}

// FanoutRound is one command to all.
type FanoutRound struct {
	// Recipients is how many agents the server sent it to: also others, and
	// those of an earlier run that it still takes for live.
	Recipients int `json:"recipients"`
	// Agents are the simulated ones of this run; so many Received the command,
	// and for so many the server has the answer.
	Agents         int     `json:"agents"`
	Received       int     `json:"received"`
	Acknowledged   int     `json:"acknowledged"`
	LastReceiptMs  float64 `json:"lastReceiptMs"`
	AcknowledgedMs float64 `json:"acknowledgedMs"`
}

// fanoutPatience is how long agents may take for a command: as long as it is
// good for.
const fanoutPatience = 60 * time.Second

// Fanout measures one command to all live agents: from the request to each
// agent's receipt, and until all have acknowledged it.
func Fanout(ctx context.Context, o Options, fo FanoutOptions) (*Report, error) {
	if fo.Rounds < 1 {
		return nil, errors.New("there must be at least one round")
	}
	r, err := begin(ctx, o)
	if err != nil {
		return nil, err
	}
	defer r.end()
	f, err := r.fleet(ctx)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	m, err := r.startMeters()
	if err != nil {
		return nil, err
	}
	defer m.drop()
	res := &FanoutResult{}
	receipt, acknowledged := newLatencies(), newLatencies()
	for i := range fo.Rounds {
		r.progress("sending a command to all: round %d of %d", i+1, fo.Rounds)
		round, err := r.fanoutRound(ctx, f, i, receipt, acknowledged)
		if err != nil {
			return nil, err
		}
		res.Rounds = append(res.Rounds, *round)
	}
	res.Receipt, res.Acknowledged = receipt.quantiles(), acknowledged.quantiles()
	if res.Costs, err = r.costs(m); err != nil {
		return nil, err
	}
	res.Lost, res.lossCause = f.lost()
	return r.report("fanout", res), nil
}

// fanoutState is what the agents tell of one round.
type fanoutState struct {
	mu       sync.Mutex
	id       string
	last     time.Time // the last receipt
	answered time.Time // the last acknowledgement that the server has confirmed
	received map[int]bool
	acked    int
}

func (s *fanoutState) counts() (received, acked int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.received), s.acked
}

// roundPayload tells the rounds apart: the command's id is known to who sent it
// only after the first agents have it.
type roundPayload struct {
	Round string `json:"round"`
}

func (r *run) fanoutRound(ctx context.Context, f *Fleet, number int, receipt, acknowledged *latencies) (*FanoutRound, error) {
	if err := f.whole(ctx); err != nil {
		return nil, err
	}
	name := names()(number)
	payload, err := json.Marshal(roundPayload{name})
	if err != nil {
		return nil, fmt.Errorf("encode the command: %w", err)
	}
	s := &fanoutState{received: make(map[int]bool, len(f.agents))}
	began := time.Now()
	f.hooks.Store(&hooks{
		command: func(agent int, c *api.AgentCommand, at time.Time) {
			var p roundPayload
			if json.Unmarshal(c.Payload, &p) != nil || p.Round != name {
				return // of somebody else
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.id = c.ID; s.received[agent] {
				return
			}
			s.received[agent], s.last = true, at
			receipt.record(at.Sub(began))
		},
		receipt: func(id string, at time.Time) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if id == s.id {
				s.acked++
				s.answered = at
			}
		},
	})
	defer f.hooks.Store(nil)
	sent, err := r.api.SendCommandToAll(ctx, api.CommandRequest{Type: commandCapability, Payload: payload, ExpiresIn: int64(fanoutPatience.Seconds())})
	if err != nil {
		return nil, fmt.Errorf("send a command to all agents: %w", err)
	}
	if _, err := waitFor(ctx, fanoutPatience, func() bool { _, acked := s.counts(); return acked >= len(f.agents) }); err != nil {
		return nil, err
	}
	s.mu.Lock()
	round := &FanoutRound{Recipients: sent.Recipients, Agents: len(f.agents), Received: len(s.received), Acknowledged: s.acked, LastReceiptMs: ms(s.last.Sub(began)), AcknowledgedMs: ms(s.answered.Sub(began))}
	if s.acked == len(f.agents) {
		acknowledged.record(s.answered.Sub(began))
	}
	s.mu.Unlock()
	progress, err := r.api.Command(ctx, sent.ID, client.DeliveryFilter{Limit: 1})
	if err != nil {
		return nil, fmt.Errorf("ask how the command went: %w", err)
	}
	// The server's own count is what others see.
	round.Acknowledged = min(round.Acknowledged, progress.Counts.Acknowledged)
	return round, nil
}

// Rows implements Result.
func (fr *FanoutResult) Rows() []Row {
	last := fr.Rounds[len(fr.Rounds)-1]
	rows := []Row{{"commands to all", fmt.Sprint(len(fr.Rounds)), fmt.Sprintf("the last one: of %d simulated agents %d received it, and %d acknowledged it; the server sent it to %d", last.Agents, last.Received, last.Acknowledged, last.Recipients)}}
	rows = append(rows, quantileRows("request to receipt", fr.Receipt)...)
	if fr.Acknowledged.Count > 0 {
		rows = append(rows, Row{"until all had acknowledged, p50", millis(fr.Acknowledged.P50), ""}, Row{"until all had acknowledged, longest", millis(fr.Acknowledged.Max), ""})
	}
	return append(rows, fr.rows()...)
}

func (fr *FanoutResult) failures() []string {
	out := lostConnections(fr.Lost, fr.lossCause)
	for i, r := range fr.Rounds {
		if r.Received < r.Agents {
			out = append(out, fmt.Sprintf("round %d: of %d agents, %d received the command", i+1, r.Agents, r.Received))
		}
		if r.Acknowledged < r.Received {
			out = append(out, fmt.Sprintf("round %d: of %d that received the command, %d acknowledged it", i+1, r.Received, r.Acknowledged))
		}
	}
	return out
}
