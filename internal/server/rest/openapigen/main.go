// Command openapigen writes the document that describes the API, generated
// from the handlers, into a file; with -3.0, in OpenAPI 3.0.3.
package main

import (
	"fmt"
	"os"

	"stella-ops.org/stella/internal/server/rest"
)

func main() {
	args, write := os.Args[1:], rest.Document
	if len(args) > 0 && args[0] == "-3.0" {
		args, write = args[1:], rest.Document30
	}
	if len(args) != 1 {
		fmt.Fprintln(os.Stderr, "usage: openapigen [-3.0] OUTPUT")
		os.Exit(2)
	}
	document, err := write()
	if err == nil {
		err = os.WriteFile(args[0], document, 0o644) //nolint:gosec // part of the source
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "openapigen:", err)
		os.Exit(1)
	}
}
