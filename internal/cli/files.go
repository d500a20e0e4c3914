package cli

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
	"stella-ops.org/stella/internal/cli/out"
)

// maxContent is how much content goes with a task: what the server takes, less
// what base64 and the rest of the request add. When files are more than that,
// those that are longer than inlineContent go to Stella's own store first.
const (
	maxContent    = 11 << 20
	inlineContent = 256 << 10
)

// collect returns the files of a release, those that are here with their
// content, or with the reference to what was pushed of them.
func (a *app) collect(ctx context.Context, server *client.Client, many bool, files, scripts, unitFiles []string) ([]api.ArtifactReference, error) {
	c, err := find(files, scripts, unitFiles)
	if err != nil {
		return nil, err
	}
	return a.fill(ctx, server, many, c)
}

// fill gives the files that were found their content, or pushes it: what is
// large, and goes to many targets, need not go with each of their tasks.
func (a *app) fill(ctx context.Context, server *client.Client, many bool, c *collector) (_ []api.ArtifactReference, err error) {
	if err := a.nameStored(ctx, server, c.list); err != nil {
		return nil, err
	}
	all, small := int64(0), int64(0)
	for _, f := range c.local {
		if all += f.size; f.size <= inlineContent {
			small += f.size
		}
	}
	if small > maxContent {
		return nil, wrongUse("pack them: tar czf release.tar.gz …, and unpack it by --script", "the small files are more than the %s that go with a task", out.Bytes(maxContent))
	}
	if all > maxContent {
		a.io.Notef("the files are more than the %s that go with a task: the large ones go to Stella's store first", out.Bytes(maxContent))
	}
	for _, f := range c.local {
		ref := &c.list[f.at]
		if (many || all > maxContent) && f.size > inlineContent {
			up, err := a.push(ctx, server, f.path, api.ArtifactRequest{Name: baseName(f.path)})
			if err != nil {
				return nil, err
			}
			ref.URL, ref.Digest = api.ArtifactScheme+up.Digest, up.Digest
			continue
		}
		if ref.Content, err = os.ReadFile(f.path); err != nil {
			return nil, wrongUse("", "%v", err)
		}
	}
	return c.list, nil
}

// nameStored gives what is in Stella's store the name that it has there, where
// none was given.
func (a *app) nameStored(ctx context.Context, server *client.Client, list []api.ArtifactReference) error {
	for i := range list {
		ref := &list[i]
		if ref.Name != "" {
			continue
		}
		stored, err := server.Artifact(ctx, ref.Digest)
		if err != nil {
			return err
		}
		if ref.Name = baseName(stored.Name); ref.Name == "" {
			return wrongUse("add the name: --file "+ref.URL+":NAME", "the artifact has no name")
		}
	}
	return nil
}

// find names the files of a release, and reads none yet.
func find(files, scripts, unitFiles []string) (*collector, error) {
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
	return &c, nil
}

// collector gathers files; those that are on this machine are local too.
type collector struct {
	list  []api.ArtifactReference
	local []localFile
}

// localFile is a file here that is to be the content of a reference.
type localFile struct {
	at   int // in the list
	path string
	size int64
}

// file takes path[:name[:mode]]. A path may have colons in it itself: the
// longest one that exists is meant.
func (c *collector) file(spec string) error {
	if strings.HasPrefix(spec, "http://") || strings.HasPrefix(spec, "https://") {
		return c.remote(spec)
	}
	if strings.HasPrefix(spec, api.ArtifactScheme) {
		return c.stored(spec)
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

// read notes one file with the permissions that it has.
func (c *collector) read(p, name, mode, kind string) error {
	info, err := os.Stat(p)
	if err != nil {
		return wrongUse("", "%v", err)
	}
	if !info.Mode().IsRegular() {
		return wrongUse("leave it out", "%s is no plain file", p)
	}
	if mode == "" && kind == "" && info.Mode().Perm()&0o111 != 0 {
		mode = "0755"
	}
	c.local = append(c.local, localFile{at: len(c.list), path: p, size: info.Size()})
	c.list = append(c.list, api.ArtifactReference{Name: path.Clean(name), Type: kind, Mode: mode})
	return nil
}

// stored takes artifact://sha256:…[:name[:mode]]: what was pushed to Stella.
func (c *collector) stored(spec string) error {
	parts := strings.Split(strings.TrimPrefix(spec, api.ArtifactScheme), ":")
	digest := strings.Join(parts[:min(2, len(parts))], ":")
	if !digestPattern.MatchString(digest) {
		return wrongUse("`stella artifact list` shows those that are there", "%s is no artifact: write it as in artifact://sha256:…:NAME", spec)
	}
	name, mode, err := nameAndMode(spec, parts[2:])
	if err != nil {
		return err
	}
	c.list = append(c.list, api.ArtifactReference{Name: name, Digest: digest, URL: api.ArtifactScheme + digest, Mode: mode})
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
