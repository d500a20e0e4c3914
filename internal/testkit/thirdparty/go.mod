// Agents of other makers, for tests: a module of its own, so that their
// libraries never choose a version for what users run.
module stella-ops.org/stella/internal/testkit/thirdparty

go 1.26.8

require (
	github.com/gorilla/websocket v1.5.3
	google.golang.org/grpc v1.76.0
	google.golang.org/protobuf v1.36.12
)

require (
	golang.org/x/net v0.42.0 // indirect
	golang.org/x/sys v0.34.0 // indirect
	golang.org/x/text v0.27.0 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20250804133106-a7a43d27e69b // indirect
)
