package api

// ServerStatus is the answer of GET /healthz and of GET /readyz.
type ServerStatus struct {
	Status string `json:"status" doc:"ok: the server runs; ready: it can do its work, too."`
}
