package install

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

// Agents are the agents' programs that a server gives out: the one that was
// built with it, and those in folders, in files named as in
// stella-agent_linux_arm64 and stella-agent_windows_amd64.exe. What is put into
// a folder is given out from then on. It is safe for concurrent use.
type Agents struct {
	folders     []string
	embedded    []byte // of the server's own system; empty in a build without
	embeddedSum func() string

	mu   sync.Mutex
	sums map[string]seen
}

// seen is the checksum of a file as it was.
type seen struct {
	size     int64
	modified time.Time
	sum      string
}

// Program is an agent's program for a system.
type Program struct {
	OS, Arch string
	SHA256   string // in hex
	path     string // empty for the one that is embedded
}

// Name is the program's file, as checksums name it.
func (p *Program) Name() string {
	name := "stella-agent_" + p.OS + "_" + p.Arch
	if p.OS == "windows" {
		name += ".exe"
	}
	return name
}

// NewAgents looks into folders, of which the first that has a program wins. One
// that does not exist has none.
func NewAgents(folders ...string) *Agents {
	program := embedded()
	return &Agents{folders: folders, embedded: program, sums: map[string]seen{}, embeddedSum: sync.OnceValue(func() string {
		sum := sha256.Sum256(program)
		return hex.EncodeToString(sum[:])
	})}
}

var fileName = regexp.MustCompile(`^stella-agent_([a-z0-9]+)_([a-z0-9]+)(\.exe)?$`)

// All are the programs that there are, by name.
func (a *Agents) All() ([]Program, error) {
	found := map[string]Program{}
	for _, folder := range slices.Backward(a.folders) {
		entries, err := os.ReadDir(folder)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("agents' programs: %w", err)
		}
		for _, e := range entries {
			m := fileName.FindStringSubmatch(e.Name())
			if m == nil || e.IsDir() {
				continue
			}
			p := Program{OS: m[1], Arch: m[2], path: filepath.Join(folder, e.Name())}
			if p.Name() != e.Name() {
				continue
			}
			if p.SHA256, err = a.sum(p.path); err != nil {
				return nil, fmt.Errorf("agents' programs: %w", err)
			}
			found[p.Name()] = p
		}
	}
	if own := (Program{OS: runtime.GOOS, Arch: runtime.GOARCH}); len(a.embedded) > 0 && found[own.Name()].SHA256 == "" {
		own.SHA256 = a.embeddedSum()
		found[own.Name()] = own
	}
	out := make([]Program, 0, len(found))
	for _, p := range found {
		out = append(out, p)
	}
	slices.SortFunc(out, func(x, y Program) int { return strings.Compare(x.Name(), y.Name()) })
	return out, nil
}

// Find returns the program for a system, or nil.
func (a *Agents) Find(goos, arch string) (*Program, error) {
	all, err := a.All()
	if err != nil {
		return nil, err
	}
	for i := range all {
		if all[i].OS == goos && all[i].Arch == arch {
			return &all[i], nil
		}
	}
	return nil, nil
}

// Open opens a program's content, to be closed.
func (a *Agents) Open(p *Program) (io.ReadSeekCloser, error) {
	if p.path == "" {
		return nopCloser{bytes.NewReader(a.embedded)}, nil
	}
	return os.Open(p.path)
}

type nopCloser struct{ io.ReadSeeker }

func (nopCloser) Close() error { return nil }

// sum is a file's checksum, computed when the file is new or has changed.
func (a *Agents) sum(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if s, ok := a.sums[path]; ok && s.size == info.Size() && s.modified.Equal(info.ModTime()) {
		return s.sum, nil
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	s := seen{size: info.Size(), modified: info.ModTime(), sum: hex.EncodeToString(h.Sum(nil))}
	a.sums[path] = s
	return s.sum, nil
}
