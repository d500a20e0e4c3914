package load

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// process is one that is measured from outside, through /proc.
type process struct{ pid int }

func selfProcess() *process { return &process{os.Getpid()} }

// ticksPerSecond is USER_HZ, which is the same on all that Go runs on.
const ticksPerSecond = 100

func (p *process) read() (sample, error) {
	s := sample{at: time.Now()}
	dir := "/proc/" + strconv.Itoa(p.pid)
	stat, err := os.ReadFile(dir + "/stat")
	if errors.Is(err, fs.ErrNotExist) {
		return s, fmt.Errorf("the server's process %d has ended", p.pid)
	} else if err != nil {
		return s, fmt.Errorf("measure process %d: %w", p.pid, err)
	}
	// The name, in brackets, may hold anything; the rest are numbers.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 22 {
		return s, fmt.Errorf("measure process %d: its stat does not parse", p.pid)
	}
	number := func(i int) int64 {
		n, _ := strconv.ParseInt(fields[i-3], 10, 64) // counted as in proc(5), from 1, without the first two
		return n
	}
	s.cpu = time.Duration(number(14)+number(15)) * time.Second / ticksPerSecond
	s.threads, s.rss = int(number(20)), number(24)*int64(os.Getpagesize())
	// Of another user's process the files cannot be counted.
	if files, err := os.ReadDir(dir + "/fd"); err == nil {
		s.files = len(files)
	}
	return s, nil
}

// findProcess returns the process with that pid, or else the one of this
// machine that listens at the server's address.
func findProcess(ctx context.Context, server string, pid int) (*process, error) {
	if pid != 0 {
		p := &process{pid}
		if _, err := p.read(); err != nil {
			return nil, fmt.Errorf("--server-pid: there is no process %d on this machine", pid)
		}
		return p, nil
	}
	u, err := url.Parse(server)
	if err != nil {
		return nil, fmt.Errorf("server URL: %w", err)
	}
	if !local(ctx, u.Hostname()) {
		return nil, fmt.Errorf("%w: it is on another machine; run stella-load there too with --server-pid, or watch it there", errUnseen)
	}
	port := u.Port()
	if port == "" {
		port = "443"
	}
	if pid := listener(port); pid != 0 {
		return &process{pid}, nil
	}
	return nil, fmt.Errorf("%w: no process of yours listens on port %s here; name it with --server-pid, or run as its user", errUnseen, port)
}

// local reports whether a host is this machine.
func local(ctx context.Context, host string) bool {
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return false
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(addrs, func(a netip.Addr) bool {
		a = a.Unmap()
		return a.IsLoopback() || slices.ContainsFunc(own, func(o net.Addr) bool {
			p, err := netip.ParsePrefix(o.String())
			return err == nil && p.Addr() == a
		})
	})
}

// listener returns the process that listens on a TCP port: the kernel's tables
// name the socket, and the process has it among its files.
func listener(port string) int {
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return 0
	}
	suffix := ":" + strings.ToUpper(hex.EncodeToString(binary.BigEndian.AppendUint16(nil, uint16(n))))
	var sockets []string
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		data, err := os.ReadFile(table)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(data)) {
			// sl local_address rem_address st … inode; 0A is LISTEN
			if f := strings.Fields(line); len(f) > 9 && f[3] == "0A" && strings.HasSuffix(f[1], suffix) {
				sockets = append(sockets, "socket:["+f[9]+"]")
			}
		}
	}
	files, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil || len(sockets) == 0 {
		return 0
	}
	for _, file := range files {
		if to, err := os.Readlink(file); err == nil && slices.Contains(sockets, to) {
			pid, _ := strconv.Atoi(strings.Split(file, "/")[2])
			return pid
		}
	}
	return 0
}
