package ssh

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"

	"github.com/pkg/sftp"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor/artifact"
)

const (
	// atOnce is how many files go up at a time, and inFlight how many packets
	// of one: both hide the time that an answer takes.
	atOnce   = 8
	inFlight = 64
)

// stagePath is the folder of this task's files, in the target's folder, so that
// they can be renamed into place.
func (r *remote) stagePath() string { return path.Join(r.dir, stagePrefix+r.task.ID) }

// inStage begins a script that works in the target's folder and stage.
func (r *remote) inStage() string { return "stage=" + quote(r.stagePath()) + "\n" }

// openStage makes an empty folder for new files, and what the files replace.
// Another one can only be a dead deployment's: a target has one change at a time.
const openStage = `
mkdir -p "$dir" && cd "$dir" || exit
rm -rf .stella-new-* || exit
mkdir -m 700 "$stage" "$stage/new" "$stage/old" || exit
`

// sendFiles brings files to the host, below the stage as new/0, new/1 and so on,
// and returns their digests (without sha256:), which were compared on the host
// with what was sent.
//
// They go up by SFTP as the user that logs in. With sudo they go to a private
// folder in that user's home first (see handOver): sftp-server itself could be
// run by sudo, but nobody knows where it is, and where sshd has its own there is
// none.
func (r *remote) sendFiles(ctx context.Context, files []source) (digests []string, err error) {
	l, err := r.connect(ctx)
	if err != nil {
		return nil, err
	}
	client, err := sftp.NewClient(l.Client, sftp.UseConcurrentWrites(true), sftp.MaxConcurrentRequestsPerFile(inFlight))
	if err != nil {
		if !l.alive() {
			return nil, l.lost()
		}
		return nil, deploy.Fail(api.ErrSwitchFailed, "%s has no SFTP: %w; its sshd_config needs the line: Subsystem sftp internal-sftp", r.config.Host, err)
	}
	// A write that the host does not answer ends with the context.
	stop := context.AfterFunc(ctx, func() { _ = client.Close() })
	defer stop()
	defer client.Close()
	into := path.Join(r.stagePath(), "new")
	if r.config.Sudo {
		home, err := client.Getwd()
		if err != nil {
			return nil, r.unsent(client, "", "find the home of "+r.config.Username, err)
		}
		into = path.Join(home, ".stella-upload-"+r.task.ID)
		_ = client.RemoveAll(into)
		if err := client.Mkdir(into); err != nil {
			return nil, r.unsent(client, home, "make "+into, err)
		}
		defer func() { _ = client.RemoveAll(into) }()
		if err := client.Chmod(into, 0o700); err != nil {
			return nil, r.unsent(client, home, "make "+into+" private", err)
		}
	}
	digests, err = r.sendAll(ctx, client, into, files)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err == nil && r.config.Sudo {
		err = r.handOver(ctx, into)
	}
	if err == nil {
		err = r.verify(ctx, files, digests)
	}
	return digests, err
}

// handOver gives files of the user that logs in to the one that sudo makes,
// who may not be able to read them where they are: through a pipe, so that they
// are never open to anybody else. Sudo's password goes before them, and is read
// by sudo or, when it asks for none, passed over with all up to a line that is
// known.
func (r *remote) handOver(ctx context.Context, from string) error {
	as, err := r.as()
	if err != nil {
		return err
	}
	line, how := "stella-"+rand.Text(), "-n"
	first := quote(line)
	if as.password != "" {
		how, first = "-S -p ''", quote(as.password)+" "+first
	}
	var body strings.Builder
	fmt.Fprintf(&body, "cd %s || exit\n{ printf '%%s\\n' %s; tar -cf - [0-9]*; } |\n", quote(from), first)
	fmt.Fprintf(&body, "sudo %s -H -u %s -- env %s sh -c %s x %s\n", how, quote(as.user), quote(as.mark),
		quote(`while IFS= read -r l; do [ "$l" = `+line+` ] && break; done; umask 077; cd "$1" && tar -xof -`), quote(path.Join(r.stagePath(), "new")))
	return r.streamAs(ctx, become{mark: as.mark}, body.String(), io.Discard)
}

// source is what a file is made of.
type source struct {
	name string
	mode os.FileMode
	copy func(ctx context.Context, dst io.Writer) (int64, error)
}

func (r *remote) artifact(a *api.ArtifactReference) (source, error) {
	mode, err := artifact.Mode(a)
	return source{name: a.Name, mode: mode, copy: func(ctx context.Context, dst io.Writer) (int64, error) {
		return artifact.Copy(ctx, dst, a, r.env.Artifacts)
	}}, err
}

// sendAll sends several files at a time; the first error ends the others.
func (r *remote) sendAll(ctx context.Context, client *sftp.Client, into string, files []source) ([]string, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	digests, turn := make([]string, len(files)), make(chan int)
	var wg sync.WaitGroup
	for range min(atOnce, len(files)) {
		wg.Go(func() {
			for i := range turn {
				digest, err := r.send(ctx, client, path.Join(into, strconv.Itoa(i)), &files[i])
				if err != nil {
					cancel(err)
				}
				digests[i] = digest
			}
		})
	}
	for i := range files {
		select {
		case turn <- i:
		case <-ctx.Done():
		}
	}
	close(turn)
	wg.Wait()
	return digests, context.Cause(ctx)
}

// send sends one file and brings it to the host's disk, where the server can.
func (r *remote) send(ctx context.Context, client *sftp.Client, to string, src *source) (digest string, err error) {
	f, err := client.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return "", r.unsent(client, path.Dir(to), "write "+src.name, err)
	}
	sum := sha256.New()
	from, through := io.Pipe()
	copied := make(chan error, 1)
	go func() {
		_, err := src.copy(ctx, io.MultiWriter(through, sum))
		_ = through.CloseWithError(err)
		copied <- err
	}()
	_, err = f.ReadFromWithConcurrency(from, inFlight)
	_ = from.CloseWithError(errors.New("the file could not be written on the host"))
	got := <-copied
	if err == nil {
		if _, ok := client.HasExtension("fsync@openssh.com"); ok {
			err = f.Sync()
		}
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	switch {
	case err == nil && got == nil:
		return hex.EncodeToString(sum.Sum(nil)), nil
	case got != nil && (err == nil || errors.Is(err, got)):
		return "", got // it could not be had: an error of where it comes from
	}
	return "", r.unsent(client, path.Dir(to), "write "+src.name, err)
}

// unsent says why the host did not take a file. SFTP has no word for a full
// disk, so that it is looked whether it is.
func (r *remote) unsent(client *sftp.Client, dir, what string, err error) error {
	if r.link != nil && (!r.link.alive() || errors.Is(err, sftp.ErrSSHFxConnectionLost)) {
		return r.link.broken(err, what)
	}
	if dir != "" {
		if disk, bad := client.StatVFS(dir); bad == nil && disk.FreeSpace() < 1<<20 {
			return deploy.Fail(api.ErrSwitchFailed, "the disk of %s is full: %s: %d bytes are left; make room, then deploy again", r.config.Host, what, disk.FreeSpace())
		}
	}
	return deploy.Fail(api.ErrSwitchFailed, "on %s: %s: %w", r.config.Host, what, err)
}

// verify has the host compute the files' digests, and sets their modes. A host
// without sha256sum sends them back instead.
func (r *remote) verify(ctx context.Context, files []source, digests []string) error {
	var b strings.Builder
	b.WriteString(r.inStage() + "cd \"$stage/new\" || exit\n")
	names, byMode := make([]string, len(files)), map[os.FileMode][]string{}
	for i := range files {
		names[i] = strconv.Itoa(i)
		byMode[files[i].mode] = append(byMode[files[i].mode], names[i])
	}
	b.WriteString("if command -v sha256sum >/dev/null; then\n")
	fmt.Fprintf(&b, "sha256sum %s | while read -r sum name; do value \"$name\" \"$sum\"; done\nfi\n", strings.Join(names, " "))
	for mode, of := range byMode {
		fmt.Fprintf(&b, "chmod %04o %s || exit\n", mode, strings.Join(of, " "))
	}
	got, err := r.anywhere(ctx, b.String())
	if err != nil {
		return err
	}
	for i, name := range names {
		have, ok := got.values[name]
		if !ok {
			sum := sha256.New()
			if err := r.stream(ctx, "cat "+quote(path.Join(r.stagePath(), "new", name))+" || exit\n", sum); err != nil {
				return err
			}
			have = hex.EncodeToString(sum.Sum(nil))
		}
		if have != digests[i] {
			return deploy.Fail(api.ErrDigestMismatch, "%q has the digest sha256:%s on %s, and sha256:%s was sent: its disk, or what is between, cannot be trusted",
				files[i].name, have, r.config.Host, digests[i]).Retry()
		}
	}
	return nil
}

// stage brings the release's files into a folder in the target's folder, and
// looks whether they can be put into their places.
func (d *deployment) stage(ctx context.Context) error {
	if d.state.Restores {
		return nil // prepare has looked
	}
	if _, err := d.anywhere(ctx, d.inStage()+noMounts+openStage); err != nil {
		return err
	}
	files := make([]source, 0, len(d.payload.Artifacts))
	for i := range d.payload.Artifacts {
		src, err := d.artifact(&d.payload.Artifacts[i])
		if err != nil {
			return err
		}
		files = append(files, src)
	}
	digests, err := d.sendFiles(ctx, files)
	if err != nil {
		return err
	}
	var check strings.Builder
	for i := range files {
		a := &d.payload.Artifacts[i]
		f := file{Name: a.Name, Type: a.Type, Mode: fmt.Sprintf("%04o", files[i].mode), SHA256: digests[i]}
		d.next.Files = append(d.next.Files, f)
		d.env.Log.Line("system", fmt.Sprintf("%s: verified on the host, sha256:%s", a.Name, digests[i]))
		fmt.Fprintf(&check, "fits %s %s\n", quote(f.Name), quote(f.folder()))
	}
	meta, err := json.MarshalIndent(d.next, "", "  ")
	if err != nil {
		return err
	}
	_, err = d.script(ctx, d.inStage()+check.String()+"umask 077\nwrite \"$stage/release\" 600 "+quote(string(meta)+"\n")+"\n")
	return err
}

// noMounts refuses a folder with something mounted below it: that can be neither
// backed up with the rest nor renamed.
const noMounts = `
while read -r _ _ _ _ at _; do
  case $at in
    "$dir"/*) die "something is mounted on $at, which cannot be backed up and restored; give the target a folder without mounts" ;;
  esac
done 2>/dev/null </proc/self/mountinfo
`

// dropSent is for a sending that was cut off: what had come stays with the user
// that logs in.
func (r *remote) dropSent(ctx context.Context) error {
	if !r.config.Sudo {
		return nil
	}
	as := become{mark: shellMark(r.task.ID, r.session)}
	return r.streamAs(ctx, as, "rm -rf \"$HOME\"/"+quote(".stella-upload-"+r.task.ID)+" || exit\n", io.Discard)
}

// unstage removes what stage has made.
func (d *deployment) unstage(ctx context.Context) error {
	body := d.endHooks() + d.inStage() + `rm -rf "$stage" || exit` + "\n"
	if d.state.Made {
		body += "rmdir \"$dir\" 2>/dev/null || :\n"
	}
	return d.leftForLater(ctx, path.Base(d.stagePath()), body)
}
