package testkit_test

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/coder/websocket"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
	"stella-ops.org/stella/internal/testkit/contract"
)

var tripsOfTargets = []row{
	{"target.create", func(w *trip) {
		req := api.TargetRequest{Name: "box", Kind: "host", Agent: "hand", Environment: "test", Labels: map[string]string{"a": "b"}, Config: api.TargetConfig{Directory: "/opt/box"}}
		made, err := w.admin.CreateTarget(w.Context(), req)
		w.ok(err)
		w.target = made.ID
		_, err = w.admin.CreateTarget(w.Context(), req)
		w.refused(err, 409, "name_taken")
	}, ""},
	{"target.list", func(w *trip) {
		_, err := w.viewer.TargetPage(w.Context(), client.TargetFilter{Kind: "host", Agent: "hand", Labels: map[string]string{"a": "b"}})
		w.ok(err)
		_, err = w.viewer.TargetPage(w.Context(), client.TargetFilter{Agent: "nobody"})
		w.refused(err, 404, "agent_not_found")
	}, ""},
	{"target.get", func(w *trip) {
		_, err := w.viewer.Target(w.Context(), "box")
		w.ok(err)
		_, err = w.viewer.Target(w.Context(), "nothing")
		w.refused(err, 404, "target_not_found")
	}, ""},
	{"inventory.list", func(w *trip) {
		list, err := w.viewer.InventoryPage(w.Context(), client.InventoryFilter{Filter: "name=box", Sort: "name", Limit: 1})
		w.ok(err)
		if len(list.Items) != 1 || list.Items[0].State != api.InventoryUnknown {
			w.Errorf("%+v", list)
		}
		_, err = w.viewer.InventoryPage(w.Context(), client.InventoryFilter{Filter: "colour=blue"})
		w.refused(err, 422, "invalid")
	}, ""},
	{"target.update", func(w *trip) {
		req := api.TargetRequest{Name: "box", Kind: "host", AgentSelector: &api.AgentSelector{Labels: map[string]string{"zone": "eu"}}, Config: api.TargetConfig{Directory: "/opt/box"}}
		_, err := w.admin.ReplaceTarget(w.Context(), w.target, req)
		w.ok(err)
		req.Kind = "docker"
		_, err = w.admin.ReplaceTarget(w.Context(), w.target, req)
		w.refused(err, 422, "invalid")
	}, ""},
}

func uptime() json.RawMessage {
	return json.RawMessage(`{"command":["uptime"],"environment":{"A":"secret"}}`)
}

var tripsOfTasks = []row{
	{"task.create", func(w *trip) {
		req := api.TaskRequest{Type: api.TaskExecuteCommand, Target: "box", Payload: uptime(), Priority: api.PriorityHigh, IdempotencyKey: "once"}
		first, err := w.admin.SubmitTask(w.Context(), req)
		w.ok(err)
		again, err := w.admin.SubmitTask(w.Context(), req)
		w.ok(err)
		if again.ID != first.ID {
			w.Errorf("%s is not %s", again.ID, first.ID)
		}
		_, err = w.admin.SubmitTask(w.Context(), api.TaskRequest{Type: api.TaskInspect, Target: "nothing"})
		w.refused(err, 404, "target_not_found")
		_, err = w.admin.SubmitTask(w.Context(), api.TaskRequest{Type: api.TaskRollback, Target: "box", Payload: json.RawMessage(`{"releaseId":"9.9"}`)})
		w.refused(err, 409, "release_unknown")
		if got := w.driven("task.create"); got[0] != 201 || got[1] != 200 {
			w.Errorf("it answered %v", got)
		}
	}, ""},
	{"task.create-many", func(w *trip) {
		req := api.TasksRequest{Selector: api.TargetSelector{Kind: "host"}, Type: api.TaskInspect, IdempotencyKey: "all"}
		_, err := w.admin.SubmitTasks(w.Context(), req)
		w.ok(err)
		req.Selector = api.TargetSelector{Environment: "nowhere"}
		_, err = w.admin.SubmitTasks(w.Context(), req)
		w.refused(err, 404, "target_not_found")
	}, ""},
	{"task.list", func(w *trip) {
		list, err := w.viewer.TaskPage(w.Context(), client.TaskFilter{State: api.TaskQueued, Target: "box", Limit: 1})
		w.ok(err)
		_, err = w.viewer.TaskPage(w.Context(), client.TaskFilter{Cursor: list.Next})
		w.ok(err)
		_, err = w.viewer.TaskPage(w.Context(), client.TaskFilter{Target: "nothing"})
		w.refused(err, 404, "target_not_found")
	}, ""},
	{"task.get", func(w *trip) {
		// Only now, for the agent has to be given something.
		var out api.HeartbeatResponse
		w.ok(w.call(w.Context(), w.agents, http.MethodPost, w.me("/heartbeat"), nil, api.HeartbeatRequest{MaxTasks: 1}, &out))
		if len(out.Tasks) != 1 || out.Tasks[0].Type != api.TaskExecuteCommand {
			w.Fatalf("the heartbeat handed out %+v", out.Tasks)
		}
		w.task = &out.Tasks[0]
		got, err := w.viewer.Task(w.Context(), w.task.ID)
		w.ok(err)
		if got.AgentID != w.agent.id || strings.Contains(string(got.Payload), "secret") {
			w.Errorf("%+v", got)
		}
		_, err = w.viewer.Task(w.Context(), "nothing")
		w.refused(err, 404, "task_not_found")
	}, ""},
	{"agent.logs", func(w *trip) {
		req := api.LogRequest{Attempt: w.task.Attempt, FirstSeq: 1, Entries: []api.LogEntry{
			{At: time.Now().UTC(), Stream: "stdout", Text: "up 1 day"}, {At: time.Now().UTC(), Stream: "system", Text: "run", Phase: "run", PhaseState: "done"},
		}}
		w.ok(w.call(w.Context(), w.agents, http.MethodPost, w.me("/tasks/"+w.task.ID+"/logs"), w.withToken(), req, nil))
		w.refused(w.call(w.Context(), w.agents, http.MethodPost, w.me("/tasks/nothing/logs"), w.withToken(), req, nil), 404, "task_not_found")
		w.refused(w.call(w.Context(), w.agents, http.MethodPost, w.me("/tasks/"+w.task.ID+"/logs"), nil, req, nil), 401, "token_missing")
	}, ""},
	{"agent.credentials", func(w *trip) {
		path := w.me("/tasks/" + w.task.ID + "/credentials")
		w.ok(w.call(w.Context(), w.agents, http.MethodPost, path, nil, api.CredentialsRequest{Attempt: w.task.Attempt}, nil))
		w.refused(w.call(w.Context(), w.agents, http.MethodPost, path, nil, api.CredentialsRequest{Attempt: 7}, nil), 409, "attempt_replaced")
	}, ""},
	{"agent.complete", func(w *trip) {
		req := api.CompleteRequest{Success: true, Attempt: w.task.Attempt, Result: &api.TaskResult{Outputs: map[string]any{"exitCode": 0}}, Logs: "up 1 day"}
		path := w.me("/tasks/" + w.task.ID + "/complete")
		ofTask := map[string]string{"Authorization": "Bearer " + w.task.Token}
		w.refused(w.call(w.Context(), w.agents, http.MethodPost, w.me("/tasks/nothing/complete"), ofTask, req, nil), 403, "token_of_another_task")
		wrong := req
		wrong.Attempt = 7
		w.refused(w.call(w.Context(), w.agents, http.MethodPost, path, ofTask, wrong, nil), 403, "token_of_another_attempt")
		var out api.CompleteResponse
		w.ok(w.call(w.Context(), w.agents, http.MethodPost, path, ofTask, req, &out))
		if !out.Acknowledged {
			w.Errorf("%+v", out)
		}
	}, ""},
	{"task.logs", func(w *trip) {
		whole, err := w.viewer.TaskLogs(w.Context(), w.task.ID)
		w.ok(err)
		n := 0
		for _, err := range w.viewer.FollowTaskLogs(w.Context(), w.task.ID) {
			w.ok(err)
			n++
		}
		if n == 0 || n != len(whole.Entries) {
			w.Errorf("%d entries were followed of %d", n, len(whole.Entries))
		}
		_, err = w.viewer.TaskLogs(w.Context(), "nothing")
		w.refused(err, 404, "task_not_found")
	}, ""},
	{"task.cancel", func(w *trip) {
		_, err := w.admin.CancelTask(w.Context(), w.task.ID)
		w.refused(err, 409, "task_finished")
		list, err := w.viewer.TaskPage(w.Context(), client.TaskFilter{State: api.TaskQueued})
		w.ok(err)
		_, err = w.admin.CancelTask(w.Context(), list.Items[0].ID)
		w.ok(err)
	}, ""},
}

var tripsOfCommands = []row{
	{"command.send", func(w *trip) {
		sent, err := w.admin.SendCommand(w.Context(), "hand", api.CommandRequest{Type: "doctor", Payload: json.RawMessage(`{"checks":["disk"]}`)})
		w.ok(err)
		w.command = sent.ID
		_, err = w.admin.SendCommand(w.Context(), "nobody", api.CommandRequest{Type: "doctor"})
		w.refused(err, 404, "agent_not_found")
		huge, err := json.Marshal(strings.Repeat("x", 257<<10))
		w.ok(err)
		_, err = w.admin.SendCommand(w.Context(), "hand", api.CommandRequest{Type: "doctor", Payload: huge})
		w.refused(err, 413, "payload_too_large")
	}, ""},
	{"command.send-group", func(w *trip) {
		_, err := w.admin.SendCommandToGroup(w.Context(), "web", api.CommandRequest{Type: "doctor"})
		w.ok(err)
		_, err = w.admin.SendCommandToGroup(w.Context(), "nowhere", api.CommandRequest{Type: "doctor"})
		w.refused(err, 404, "group_not_found")
	}, ""},
	{"command.send-all", func(w *trip) {
		_, err := w.admin.SendCommandToAll(w.Context(), api.CommandRequest{Type: "doctor", ExpiresIn: 5})
		w.ok(err)
		_, err = w.admin.SendCommandToAll(w.Context(), api.CommandRequest{Type: "dance"})
		w.refused(err, 422, "invalid")
	}, ""},
	{"command.list", func(w *trip) {
		_, err := w.viewer.CommandPage(w.Context(), client.CommandFilter{Type: "doctor", Limit: 2})
		w.ok(err)
		_, err = w.viewer.CommandPage(w.Context(), client.CommandFilter{Sort: "nonsense"})
		w.refused(err, 422, "invalid")
	}, ""},
	{"command.ack", func(w *trip) {
		path := w.me("/commands/" + w.command + "/ack")
		var out api.CommandAckResponse
		w.ok(w.call(w.Context(), w.agents, http.MethodPost, path, nil, api.CommandAck{Result: json.RawMessage(`{"healthy":true}`)}, &out))
		w.ok(w.call(w.Context(), w.agents, http.MethodPost, path, nil, nil, nil)) // a body is not needed
		if out.State != api.CommandAcknowledged {
			w.Errorf("%+v", out)
		}
		w.refused(w.call(w.Context(), w.agents, http.MethodPost, w.me("/commands/nothing/ack"), nil, api.CommandAck{}, nil), 404, "command_not_found")
	}, ""},
	{"command.get", func(w *trip) {
		got, err := w.viewer.Command(w.Context(), w.command, client.DeliveryFilter{State: api.CommandAcknowledged})
		w.ok(err)
		if len(got.Deliveries) != 1 {
			w.Errorf("%+v", got)
		}
		_, err = w.viewer.Command(w.Context(), "nothing", client.DeliveryFilter{})
		w.refused(err, 404, "command_not_found")
	}, ""},
	{"command.list-agent", func(w *trip) {
		for c, err := range w.viewer.AgentCommands(w.Context(), "hand", "") {
			w.ok(err)
			if c.Type != "doctor" {
				w.Errorf("%+v", c)
			}
		}
		w.ok(w.call(w.Context(), w.agents, http.MethodGet, w.me("/commands?state=pending"), nil, nil, nil))
		for _, err := range w.viewer.AgentCommands(w.Context(), "nobody", "") {
			w.refused(err, 404, "agent_not_found")
		}
	}, ""},
}

var tripsOfStreams = []row{
	{"event.list", func(w *trip) {
		ctx, cancel := context.WithTimeout(w.Context(), 20*time.Second)
		defer cancel()
		f := client.EventFilter{Kinds: []string{"agent.updated"}, Agent: "hand", Connected: func() {
			_, err := w.admin.UpdateAgent(ctx, "hand", api.AgentUpdate{Capabilities: &[]string{"docker", "host"}})
			w.ok(err)
		}}
		for e, err := range w.viewer.Events(ctx, f) {
			w.ok(err)
			if e.AgentName != "hand" {
				w.Errorf("%+v", e)
			}
			break
		}
		for _, err := range w.viewer.Events(ctx, client.EventFilter{Kinds: []string{"weather"}}) {
			w.refused(err, 422, "invalid")
		}
	}, ""},
	{"agent.events", func(w *trip) {
		ctx, cancel := context.WithTimeout(w.Context(), 20*time.Second)
		defer cancel()
		w.refused(w.call(ctx, w.transport, http.MethodGet, w.me("/events"), nil, nil, nil), 401, "certificate_missing")
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.cp.URL+w.me("/events"), http.NoBody)
		w.ok(err)
		res, err := w.agents.RoundTrip(req)
		w.ok(err)
		defer res.Body.Close()
		sent, err := w.admin.SendCommand(ctx, "hand", api.CommandRequest{Type: "collect-logs"})
		w.ok(err)
		lines := bufio.NewScanner(res.Body)
		for lines.Scan() {
			if strings.HasPrefix(lines.Text(), "data:") && strings.Contains(lines.Text(), sent.ID) {
				return
			}
		}
		w.Fatalf("the command did not come: %v", lines.Err())
	}, ""},
	{"agent.task-stream", func(w *trip) {
		ctx, cancel := context.WithTimeout(w.Context(), 20*time.Second)
		defer cancel()
		w.refused(w.call(contract.Careless(ctx), w.agents, http.MethodGet, w.me("/task-stream"), nil, nil, nil), 426, "websocket_expected")
		conn, _, err := websocket.Dial(ctx, w.cp.URL+w.me("/task-stream"), &websocket.DialOptions{HTTPClient: &http.Client{Transport: w.sockets}})
		w.ok(err)
		defer conn.CloseNow() //nolint:errcheck // it is closed below
		say := func(m api.StreamMessage) {
			data, err := json.Marshal(m)
			w.ok(err)
			w.ok(w.agents.Document.Check("StreamMessage", data))
			w.ok(conn.Write(ctx, websocket.MessageText, data))
		}
		hear := func(want string) (m api.StreamMessage) {
			for m.Type != want {
				_, data, err := conn.Read(ctx)
				w.ok(err)
				w.ok(w.agents.Document.Check("StreamMessage", data))
				m = api.StreamMessage{}
				w.ok(json.Unmarshal(data, &m))
			}
			return m
		}
		hear(api.StreamWelcome)
		say(api.StreamMessage{Type: api.StreamHello, Capabilities: []string{"docker", "host"}, MaxTasks: 1, Commands: true})
		say(api.StreamMessage{Type: api.StreamHeartbeat, Status: "online", ResourceUsage: &api.ResourceUsage{Load1: .5}})
		hear(api.StreamHeartbeatAck)
		task, err := w.admin.SubmitTask(ctx, api.TaskRequest{Type: api.TaskExecuteCommand, Target: "box", Payload: uptime()})
		w.ok(err)
		if got := hear(api.StreamTaskAssigned); got.Task.ID != task.ID {
			w.Fatalf("%+v", got.Task)
		}
		say(api.StreamMessage{Type: api.StreamTaskAccepted, TaskID: task.ID})
		say(api.StreamMessage{Type: api.StreamTaskLog, TaskID: task.ID, FirstSeq: 1, Entries: []api.LogEntry{{At: time.Now().UTC(), Stream: "stdout", Text: "up"}}})
		hear(api.StreamLogAck)
		say(api.StreamMessage{Type: api.StreamTaskResult, TaskID: task.ID, Success: true})
		hear(api.StreamResultAck)
		sent, err := w.admin.SendCommand(ctx, "hand", api.CommandRequest{Type: "doctor"})
		w.ok(err)
		for hear(api.StreamCommand).Command.ID != sent.ID { //nolint:revive // those before it are let pass
		}
		say(api.StreamMessage{Type: api.StreamCommandAck, CommandID: sent.ID})
		hear(api.StreamCommandReceipt)
		w.ok(conn.Close(websocket.StatusNormalClosure, ""))
	}, ""},
}
