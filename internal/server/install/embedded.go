//go:build stella_embed_agent

package install

import _ "embed"

// make build puts the agent of the same build there.
//
//go:embed embedded/stella-agent
var program []byte

func embedded() []byte { return program }
