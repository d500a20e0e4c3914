// Command stella is the server and the operator's tool of Stella.
package main

import (
	"os"

	"stella-ops.org/stella/internal/cli"
	"stella-ops.org/stella/internal/obs"
)

func main() {
	root := cli.New(obs.BuildVersion())
	root.AddCommand(serverCommand())
	os.Exit(cli.Execute(root))
}
