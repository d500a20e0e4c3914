package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/client"
	"stella-ops.org/stella/internal/cli/out"
)

func (a *app) artifactPushCommand() *cobra.Command {
	var name, mediaType, notes string
	cmd := &cobra.Command{
		Use:   "push FILE…",
		Short: "Push files, to deploy them by their digests",
		Long: `Push files to Stella's own store, and print how each is called there: its agents
fetch them from there, and need no other server.

A push that was interrupted goes on where it was when it is repeated; what is
there already is not sent again.`,
		Example: `  stella artifact push app-1.4.2.tar.gz
  stella deploy web --file "$(stella artifact push app.tar.gz):app.tar.gz" --start ./start.sh`,
		Args: args(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, files []string) error {
			if name != "" && len(files) > 1 {
				return wrongUse("push them one by one, or leave --name out", "one name is not for %s", plural(len(files), "file"))
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			pushed := api.ArtifactList{}
			for _, p := range files {
				up, err := a.push(cmd.Context(), c, p, api.ArtifactRequest{Name: first(name, baseName(p)), MediaType: mediaType, Notes: notes})
				if err != nil {
					return err
				}
				f, err := c.Artifact(cmd.Context(), up.Digest)
				if err != nil {
					return err
				}
				pushed.Items = append(pushed.Items, *f)
			}
			return a.io.Write(a.format, pushed, func() {
				for i := range pushed.Items {
					a.io.Println(api.ArtifactScheme + pushed.Items[i].Digest)
				}
				f := &pushed.Items[0]
				a.io.Notef("%s", a.io.ErrStyle.Faint(fmt.Sprintf("deploy it with `stella deploy TARGET --file %s%s:%s`", api.ArtifactScheme, f.Digest, first(f.Name, "NAME"))))
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&name, "name", "", "what to call it, for people; the file's name when left out")
	flags.StringVar(&mediaType, "media-type", "", "what it is, as in application/gzip")
	flags.StringVar(&notes, "notes", "", "anything that people should know of it")
	return cmd
}

// push brings one file to the server's store, and shows how far it has come.
func (a *app) push(ctx context.Context, c *client.Client, p string, req api.ArtifactRequest) (*api.ArtifactUpload, error) {
	f, err := os.Open(p)
	if err != nil {
		return nil, wrongUse("", "%v", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, wrongUse("", "%v", err)
	}
	if !info.Mode().IsRegular() {
		return nil, wrongUse("pack a folder first, as in `tar czf app.tar.gz app/`", "%s is no plain file", p)
	}
	show := a.io.Progress()
	defer show.Stop()
	began := time.Now()
	show.Status("reading "+p, began)
	sum := sha256.New()
	if req.Size, err = io.Copy(sum, reading{ctx, f}); err != nil {
		return nil, fmt.Errorf("read %s: %w", p, err)
	}
	req.Digest = "sha256:" + hex.EncodeToString(sum.Sum(nil))
	began = time.Now()
	was, drawn := int64(-1), time.Time{}
	up, err := c.PushArtifact(ctx, req, f, func(received int64) {
		if was < 0 {
			was = received
		}
		// A terminal need not see each of ten thousand steps.
		if now := time.Now(); now.Sub(drawn) > 50*time.Millisecond || received == req.Size {
			drawn = now
			show.Status("pushing "+p+" "+bar(received, req.Size), began)
		}
	})
	if err != nil {
		return nil, err
	}
	what := out.Bytes(uint64(max(0, req.Size)))
	switch {
	case was == req.Size && req.Size > 0:
		show.Linef("%s %s was there already, %s", a.io.ErrStyle.Good("✓"), p, what)
	case was > 0:
		show.Linef("%s %s pushed, %s, from %s on", a.io.ErrStyle.Good("✓"), p, what, percent(was, req.Size))
	default:
		show.Linef("%s %s pushed, %s", a.io.ErrStyle.Good("✓"), p, what)
	}
	return up, nil
}

// bar shows how much of something has come.
func bar(n, of int64) string {
	const width = 24
	full := int(width * n / max(1, of))
	return "[" + strings.Repeat("█", full) + strings.Repeat("·", width-full) + "] " + percent(n, of) + " of " + out.Bytes(uint64(max(0, of)))
}

// reading is a reader that ends when ctx does: a large file takes a while.
type reading struct {
	ctx context.Context
	io.Reader
}

func (r reading) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

func (a *app) artifactPullCommand() *cobra.Command {
	var to string
	cmd := &cobra.Command{
		Use:   "pull DIGEST|NAME",
		Short: "Get an artifact's content",
		Long: `Get an artifact's content into a file, and compare its digest. Nothing is left
when it does not come whole.`,
		Example:           `  stella artifact pull sha256:… -f app.tar.gz`,
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: a.completeArtifacts(1, true),
		RunE: func(cmd *cobra.Command, ids []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			f, err := c.Artifact(cmd.Context(), artifactID(ids[0]))
			if err != nil {
				return err
			}
			if !f.Complete {
				return failed("wait until it is pushed, or push it again with `stella artifact push`", "the upload of %s is not complete", f.Digest)
			}
			if to == "" {
				if to = baseName(f.Name); to == "" || to == "." || to == ".." {
					return wrongUse("give --to FILE", "the artifact has no name that could be a file's")
				}
			}
			if err := a.pull(cmd.Context(), c, f, to); err != nil {
				return err
			}
			return a.io.Write(a.format, f, func() { a.io.Println(to) })
		},
	}
	cmd.Flags().StringVarP(&to, "to", "f", "", "the `file` to write; the artifact's name here when left out")
	return cmd
}

// pull writes an artifact beside where it is to go, and moves it there when it
// is whole and the right one.
func (a *app) pull(ctx context.Context, c *client.Client, f *api.Artifact, to string) (err error) {
	temp, err := os.CreateTemp(filepath.Dir(to), ".stella-pull-*")
	if err != nil {
		return wrongUse("", "%v", err)
	}
	defer func() {
		if err != nil {
			_ = temp.Close() // what went wrong before is the error to report
			_ = os.Remove(temp.Name())
		}
	}()
	show := a.io.Progress()
	defer show.Stop()
	sum := sha256.New()
	meter := &meter{show: show, what: "getting " + first(f.Name, out.ShortDigest(f.Digest)), size: f.Size, began: time.Now()}
	if err := c.PullArtifact(ctx, f.Digest, f.Size, io.MultiWriter(temp, sum, meter)); err != nil {
		return err
	}
	if got := "sha256:" + hex.EncodeToString(sum.Sum(nil)); got != f.Digest {
		return failed("push it anew, and find out what changed it in the server's database", "what came has the digest %s, and not %s: nothing is kept of it", got, f.Digest)
	}
	if err := temp.Chmod(0o644); err != nil {
		return err
	}
	if err := temp.Close(); err != nil {
		return err
	}
	return os.Rename(temp.Name(), to)
}

// meter shows how much went through it.
type meter struct {
	show  *out.Progress
	what  string
	done  int64
	size  int64
	began time.Time
	drawn time.Time
}

func (m *meter) Write(p []byte) (int, error) {
	m.done += int64(len(p))
	if now := time.Now(); now.Sub(m.drawn) > 50*time.Millisecond {
		m.drawn = now
		m.show.Status(m.what+" "+bar(m.done, m.size), m.began)
	}
	return len(p), nil
}
