package main

import (
	"encoding/json"
	"time"
)

// down is what the server sends, as far as this agent looks at it.
type down struct {
	Type      string   `json:"type"`
	Task      *task    `json:"task"`
	TaskID    string   `json:"taskId"`
	Command   *command `json:"command"`
	CommandID string   `json:"commandId"`
	Accepted  bool     `json:"accepted"`
	LastSeq   int64    `json:"lastSeq"`

	HeartbeatIntervalMs int64 `json:"heartbeatIntervalMs"`
}

type task struct {
	ID      string `json:"id"`
	Type    string `json:"type"`
	Payload struct {
		Command []string `json:"command"`
	} `json:"payload"`
}

type command struct {
	ID      string          `json:"id"`
	Type    string          `json:"type"`
	Payload json.RawMessage `json:"payload"`
}

// up is what this agent sends.
type up struct {
	Type         string    `json:"type"`
	TaskID       string    `json:"taskId,omitempty"`
	FirstSeq     int64     `json:"firstSeq,omitempty"`
	Entries      []entry   `json:"entries,omitempty"`
	Success      bool      `json:"success,omitempty"`
	Result       any       `json:"result,omitempty"`
	CommandID    string    `json:"commandId,omitempty"`
	Status       string    `json:"status,omitempty"`
	Commands     bool      `json:"commands,omitempty"`
	RunningTasks []running `json:"runningTasks,omitempty"`
}

type entry struct {
	At     time.Time `json:"at"`
	Stream string    `json:"stream"`
	Text   string    `json:"text"`
}

type running struct {
	TaskID string `json:"taskId"`
}

type result struct {
	Error     string         `json:"error,omitempty"`
	ErrorType string         `json:"errorType,omitempty"`
	Outputs   map[string]any `json:"outputs,omitempty"`
}
