// Package sticker writes and reads version stickers: a file on a target that
// says which release runs there.
//
// It knows files and bytes; where a target keeps its sticker is its executor's
// business.
package sticker

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/atomicfile"
)

// maxSize bounds what is read as a sticker: the file may be anybody's.
const maxSize = 1 << 20

// Encode returns a sticker as its file holds it.
func Encode(s *api.VersionSticker) ([]byte, error) {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode the sticker of %s: %w", s.TargetName, err)
	}
	return append(data, '\n'), nil
}

// Decode returns the sticker that a file holds.
func Decode(data []byte) (*api.VersionSticker, error) {
	var s api.VersionSticker
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("the file is no sticker: %w", err)
	}
	return &s, nil
}

// Former is what was where a sticker is written, so that it can be put back.
type Former struct {
	Existed bool   `json:"existed,omitempty"`
	Data    []byte `json:"data,omitempty"`
}

// Load returns what is at path now; nothing there is no error.
func Load(path string) (Former, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Former{}, nil
	}
	if err != nil {
		return Former{}, fmt.Errorf("read the sticker: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Former{}, fmt.Errorf("read the sticker: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxSize {
		return Former{}, fmt.Errorf("%s is not a file of less than 1 MiB; choose another path for the sticker", path)
	}
	data := make([]byte, info.Size())
	n, err := f.ReadAt(data, 0)
	if n < len(data) {
		return Former{}, fmt.Errorf("read the sticker %s: %w", path, err)
	}
	return Former{Existed: true, Data: data}, nil
}

// Write writes a sticker's bytes to path, atomically, and reads them back.
func Write(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // a sticker is for everybody to read
		return fmt.Errorf("write the sticker: %w", err)
	}
	if err := atomicfile.Write(path, data, 0o644); err != nil {
		return fmt.Errorf("write the sticker: %w", err)
	}
	back, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read the sticker back: %w", err)
	}
	if !bytes.Equal(back, data) {
		return fmt.Errorf("the sticker %s reads back differently; something else writes it", path)
	}
	return nil
}

// Undo puts back what Load had found, if the sticker that was to be written is
// at path now. Another's sticker is left alone: this one was never written.
func Undo(path string, written *api.VersionSticker, former Former) error {
	now, err := Load(path)
	if err != nil {
		return err
	}
	data, err := Encode(written)
	if err != nil {
		return err
	}
	if !now.Existed || !bytes.Equal(now.Data, data) {
		return nil
	}
	return Restore(path, former)
}

// Restore puts back what Load had found.
func Restore(path string, former Former) error {
	if former.Existed {
		return Write(path, former.Data)
	}
	if _, err := os.Lstat(filepath.Dir(path)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the sticker: %w", err)
	}
	return atomicfile.SyncDir(filepath.Dir(path))
}
