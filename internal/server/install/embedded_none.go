//go:build !stella_embed_agent

package install

// embedded is nothing in a build by go alone: make build puts the agent in.
func embedded() []byte { return nil }
