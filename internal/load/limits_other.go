//go:build !unix

package load

// roomForConnections has nothing to do where connections are not limited like files.
func roomForConnections(int) error { return nil }
