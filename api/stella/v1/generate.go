// Package stellav1 is the generated code of the link's protocol buffers: the
// frames that an agent and a server exchange, and the gRPC service that
// carries them. It owns nothing but their shape.
package stellav1

//go:generate sh -c "cd ../../.. && go tool -modfile=tools/go.mod buf generate"
