//go:build !windows

package atomicfile

import "os"

// replace gives the file from the name to, in place of what has it.
func replace(from, to string) error { return os.Rename(from, to) }
