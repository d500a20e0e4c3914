//go:build !windows

package privatedir

import "os"

// Make makes the folder at path, and those above it that are missing, with mode
// 0700. A folder that is there is left as it is. It may be called again.
func Make(path string) error { return os.MkdirAll(path, 0o700) }

// Others returns nothing: here each file has a mode of its own, and those that
// hold secrets are 0600.
func Others(string) ([]string, error) { return nil, nil }
