// Package stellav1 is generated from link.proto by grpc-go's own generator, as
// another maker would do it. It is written by the main module's `go generate`.
package stellav1
