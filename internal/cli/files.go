package cli

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/cli/out"
)

// maxContent is how much content goes with a task: what the server takes, less
// what base64 and the rest of the request add.
const maxContent = 11 << 20

// collect reads the files of a release.
func collect(files, scripts, unitFiles []string) ([]api.ArtifactReference, error) {
	var c collector
	for _, spec := range files {
		if err := c.file(spec); err != nil {
			return nil, err
		}
	}
	for _, p := range scripts {
		if err := c.read(p, baseName(p), "", "deploy_script"); err != nil {
			return nil, err
		}
	}
	for _, p := range unitFiles {
		if err := c.read(p, baseName(p), "", "systemd_unit"); err != nil {
			return nil, err
		}
	}
	return c.list, nil
}

type collector struct {
	list []api.ArtifactReference
	size int64
}

// file takes path[:name[:mode]]. A path may have colons in it itself: the
// longest one that exists is meant.
func (c *collector) file(spec string) error {
	if strings.HasPrefix(spec, "http://") || strings.HasPrefix(spec, "https://") {
		return c.remote(spec)
	}
	parts := strings.Split(spec, ":")
	for i := len(parts); i > 0; i-- {
		p := strings.Join(parts[:i], ":")
		info, err := os.Stat(p)
		if errors.Is(err, fs.ErrNotExist) || p == "" {
			continue
		}
		if err != nil {
			return wrongUse("", "%v", err)
		}
		name, mode, err := nameAndMode(spec, parts[i:])
		if err != nil {
			return err
		}
		if info.IsDir() {
			return c.folder(p, name, mode)
		}
		return c.read(p, first(name, baseName(p)), mode, "")
	}
	return wrongUse("give --file PATH, or PATH:NAME:MODE to call it otherwise there", "there is no file %s", parts[0])
}

func nameAndMode(spec string, rest []string) (name, mode string, err error) {
	switch len(rest) {
	case 0:
		return "", "", nil
	case 1:
		return rest[0], "", nil
	case 2:
		return rest[0], rest[1], nil
	}
	return "", "", wrongUse("write it as in --file PATH:NAME:MODE", "--file %s has too many parts", spec)
}

// folder takes all files below a folder. As for rsync, a slash at the end
// means the content without the folder itself.
func (c *collector) folder(dir, name, mode string) error {
	if name == "" && !strings.HasSuffix(dir, "/") && !strings.HasSuffix(dir, string(filepath.Separator)) {
		name = filepath.Base(filepath.Clean(dir))
	}
	if name == ".." || name == string(filepath.Separator) {
		name = ""
	}
	return filepath.WalkDir(dir, func(p string, entry fs.DirEntry, err error) error {
		if err != nil {
			return wrongUse("", "%v", err)
		}
		if entry.IsDir() {
			return nil
		}
		below, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		return c.read(p, path.Join(name, filepath.ToSlash(below)), mode, "")
	})
}

// read takes one file with the permissions that it has.
func (c *collector) read(p, name, mode, kind string) error {
	info, err := os.Stat(p)
	if err != nil {
		return wrongUse("", "%v", err)
	}
	if !info.Mode().IsRegular() {
		return wrongUse("leave it out", "%s is no plain file", p)
	}
	if c.size += info.Size(); c.size > maxContent {
		return wrongUse("put what is large on an HTTP server, and give --file https://…@sha256:…",
			"the files are more than the %s that go with a task", out.Bytes(maxContent))
	}
	content, err := os.ReadFile(p)
	if err != nil {
		return wrongUse("", "%v", err)
	}
	if mode == "" && kind == "" && info.Mode().Perm()&0o111 != 0 {
		mode = "0755"
	}
	c.list = append(c.list, api.ArtifactReference{Name: path.Clean(name), Type: kind, Content: content, Mode: mode})
	return nil
}

// remote takes url@sha256:…[:name[:mode]]: the agent gets it by itself.
func (c *collector) remote(spec string) error {
	url, rest, ok := strings.Cut(spec, "@sha256:")
	parts := strings.Split(rest, ":")
	digest := "sha256:" + parts[0]
	if !ok || !digestPattern.MatchString(digest) {
		return wrongUse("write it as in --file https://host/app.tar.gz@sha256:…", "%s has no digest: what comes from elsewhere is checked", url)
	}
	name, mode, err := nameAndMode(spec, parts[1:])
	if err != nil {
		return err
	}
	if name == "" {
		name = baseName(strings.SplitN(url, "?", 2)[0])
	}
	if name == "" {
		return wrongUse("add the name: "+spec+":NAME", "the URL has no file name at its end")
	}
	c.list = append(c.list, api.ArtifactReference{Name: name, Digest: digest, URL: url, Mode: mode})
	return nil
}
