//go:build unix

package load

import (
	"fmt"
	"os"
	"syscall"
)

// spareFiles is what a process needs beside its agents' connections.
const spareFiles = 100

// roomForConnections raises the limit of open files as far as it goes, and says what
// to do when that is not enough for so many connections.
func roomForConnections(agents int) error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("ask for the limit of open files: %w", err)
	}
	if limit.Cur < limit.Max {
		limit.Cur = limit.Max
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			return fmt.Errorf("raise the limit of open files to %d: %w", limit.Max, err)
		}
	}
	need := uint64(agents) + spareFiles //nolint:gosec // it is above 0
	if uint64(limit.Max) < need {       //nolint:unconvert // it is signed on FreeBSD
		return fmt.Errorf("%d agents need %d open files, and this process may have %d: raise the hard limit (`ulimit -Hn %d` as root, or LimitNOFILE= of a systemd unit), or run fewer agents in each of several processes; the server needs as many",
			agents, need, limit.Max, need)
	}
	return roomForPorts(agents)
}

// roomForPorts checks that so many connections to one address have a port each.
// Only Linux says how many there are.
func roomForPorts(agents int) error {
	data, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return nil //nolint:nilerr // nobody knows
	}
	var from, to int
	if _, err := fmt.Sscan(string(data), &from, &to); err != nil || agents <= to-from {
		return nil //nolint:nilerr // nobody knows, or there is room
	}
	return fmt.Errorf("%d agents need a port each to reach the server, and this machine hands out %d: widen the range (`sysctl -w net.ipv4.ip_local_port_range='1024 65535'` as root), or run some of the agents on another machine",
		agents, to-from)
}
