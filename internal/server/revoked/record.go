// Package revoked keeps outside the database, too, which certificates were ended
// before their time, and why: a database that is put back from a backup has
// forgotten what was revoked since, and this file has not.
//
// Each server has a file of its own, in its data folder. What one server ends is
// in its file before anybody is told; the others read it from the database, some
// seconds later.
package revoked

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"stella-ops.org/stella/internal/atomicfile"
	"stella-ops.org/stella/internal/enroll"
)

// Record is the file: a line of JSON for each certificate. It is only ever added
// to, but for the start, when lines go that are worth nothing any more. It is safe
// for concurrent use.
type Record struct {
	path string

	mu   sync.Mutex
	have map[string]string // why, by serial
}

// line is how a certificate stands in the file.
type line struct {
	Serial   string    `json:"serial"`
	Tenant   string    `json:"tenant,omitempty"`
	Agent    string    `json:"agent,omitempty"`
	At       time.Time `json:"at"`
	NotAfter time.Time `json:"notAfter"`
	Why      string    `json:"why"`
}

// Open reads the file at path, of which there may be none, and returns what is in
// it. Certificates that ended by themselves before a time are forgotten. A last
// line that was cut off is one that nobody was told of; what else is wrong with the
// file is an error.
func Open(path string, forgetBefore time.Time) (*Record, []*enroll.Ended, error) {
	r := &Record{path: path, have: map[string]string{}}
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return r, nil, nil
	} else if err != nil {
		return nil, nil, fmt.Errorf("read the record of revoked certificates: %w", err)
	}
	whole := data[:bytes.LastIndexByte(data, '\n')+1]
	latest := map[string]*enroll.Ended{}
	var order []string
	lines := 0
	for text := range bytes.Lines(whole) {
		lines++
		e, err := parse(text)
		if err != nil {
			return nil, nil, fmt.Errorf("the record of revoked certificates, %s, is damaged in line %d (%w): "+
				"put a copy of it back; without one, move it away, and the server makes a new one of what its database knows", path, lines, err)
		}
		if e.NotAfter.Before(forgetBefore) {
			continue
		}
		if old := latest[e.Serial]; old == nil {
			order = append(order, e.Serial)
		} else if !graver(e.Why, old.Why) {
			continue
		}
		latest[e.Serial] = e
	}
	ended := make([]*enroll.Ended, len(order))
	for i, serial := range order {
		ended[i] = latest[serial]
		r.have[serial] = latest[serial].Why
	}
	if len(ended) < lines || len(whole) < len(data) {
		var out bytes.Buffer
		for _, e := range ended {
			out.Write(format(e))
		}
		if err := atomicfile.Write(path, out.Bytes(), 0o600); err != nil {
			return nil, nil, fmt.Errorf("tidy up the record of revoked certificates: %w", err)
		}
	} else if runtime.GOOS != "windows" {
		if err := os.Chmod(path, 0o600); err != nil {
			return nil, nil, fmt.Errorf("keep the record of revoked certificates to its owner: %w", err)
		}
	}
	return r, ended, nil
}

func parse(text []byte) (*enroll.Ended, error) {
	var l line
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&l); err != nil {
		return nil, err
	}
	if n, ok := new(big.Int).SetString(l.Serial, 16); !ok || n.Sign() <= 0 {
		return nil, fmt.Errorf("%q is no serial number", l.Serial)
	}
	switch l.Why {
	case enroll.WhyRevoked, enroll.WhyDeleted, enroll.WhyReplaced:
	default:
		return nil, fmt.Errorf("%q is no reason", l.Why)
	}
	return &enroll.Ended{Serial: l.Serial, TenantID: l.Tenant, AgentID: l.Agent, At: l.At, NotAfter: l.NotAfter, Why: l.Why}, nil
}

func format(e *enroll.Ended) []byte {
	text, _ := json.Marshal(line{ // texts and times, which always encode
		Serial: e.Serial, Tenant: e.TenantID, Agent: e.AgentID, At: e.At.UTC(), NotAfter: e.NotAfter.UTC(), Why: e.Why,
	})
	return append(text, '\n')
}

// graver reports whether one reason says more than another: a certificate that
// was replaced may be of an agent that is revoked later.
func graver(why, than string) bool { return than == enroll.WhyReplaced && why != enroll.WhyReplaced }

// Add puts certificates into the file that are not in it, and returns when they
// are on the disk. After an error, the file is as it was.
func (r *Record) Add(ended []*enroll.Ended) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var text []byte
	var news []*enroll.Ended
	for _, e := range ended {
		if old, ok := r.have[e.Serial]; !ok || graver(e.Why, old) {
			text, news = append(text, format(e)...), append(news, e)
		}
	}
	if len(news) == 0 {
		return nil
	}
	if err := appendTo(r.path, text); err != nil {
		return fmt.Errorf("add to the record of revoked certificates: %w", err)
	}
	for _, e := range news {
		r.have[e.Serial] = e.Why
	}
	return nil
}

func appendTo(path string, text []byte) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if _, err = f.Write(text); err == nil {
		err = f.Sync()
	}
	if err != nil {
		// What is left of it would spoil the next line.
		return errors.Join(err, f.Truncate(info.Size()))
	}
	if info.Size() == 0 {
		return atomicfile.SyncDir(filepath.Dir(path))
	}
	return nil
}
