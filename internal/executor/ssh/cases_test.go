//go:build linux

package ssh_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/executor/executortest"
	"stella-ops.org/stella/internal/testkit/sshd"
)

// both runs a test on a server with coreutils, and on one with busybox and a
// user who may do little.
func both(t *testing.T, test func(t *testing.T, s *sshd.Server)) {
	t.Helper()
	t.Run("process", func(t *testing.T) { t.Parallel(); test(t, sshd.Start(t, sshd.Options{})) })
	t.Run("container", func(t *testing.T) { t.Parallel(); test(t, sshd.Contain(t, sshd.Options{})) })
}

// odd are names that a careless shell script stumbles over.
var odd = []string{
	"a b", " lead and trail ", "it's", `say "hi"`, "new\nline", "end\n", "$HOME", "`id`", "$(id)", "-rf", "--", "*", "?", "[a]",
	"~", "#", "a;b", "a&b", "a|b", "a>b", "(x)", "!", "%s", "\t", "é ü 漢字 🦊", "..x", "=", "\x01\x7f", "x=$(touch evil)",
}

func TestOddNames(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, s *sshd.Server) {
		f, dir := files(t, s)
		p := release("v1")
		for _, name := range odd {
			p.Artifacts = append(p.Artifacts,
				api.ArtifactReference{Name: name, Content: []byte("file " + name)},
				api.ArtifactReference{Name: "in/" + name + "/" + name, Content: []byte("deep " + name), Mode: "0600"})
		}
		must(t, f, p)
		must(t, f, p) // over what is there
		for _, name := range odd {
			if got := read(t, filepath.Join(dir, name)); got != "file "+name {
				t.Errorf("%q has %q", name, got)
			}
			if got := read(t, filepath.Join(dir, "in", name, name)); got != "deep "+name {
				t.Errorf("%q has %q", name, got)
			}
		}
		res, log := executortest.Single(t, f, api.TaskInspect, nil)
		if changed, _ := res.Outputs["changed"].([]string); !res.Success || len(changed) != 0 {
			t.Errorf("%s: changed %v\n%s", res.Error, changed, log)
		}
		// Drift is seen.
		if err := os.WriteFile(filepath.Join(dir, "it's"), []byte("edited"), 0o666); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(dir, "new\nline")); err != nil {
			t.Fatal(err)
		}
		res, _ = executortest.Single(t, f, api.TaskInspect, nil)
		if said, _ := res.Outputs["differences"].([]string); len(said) != 2 || !strings.Contains(said[0], `"it's" was changed or removed`) {
			t.Errorf("differences %q", said)
		}
		if diff := cmp.Diff([]string{"it's", "new\nline"}, res.Outputs["changed"]); diff != "" {
			t.Error(diff)
		}
		// What the next release does not have goes, with its folders.
		must(t, f, release("v2"))
		if got := len(listing(t, dir, time.Second)); got != 2 {
			t.Errorf("%d things are left, want version and version.json: %q", got, listing(t, dir, time.Second))
		}
		// Arguments arrive as they are.
		res, log = executortest.Single(t, f, api.TaskExecuteCommand, api.CommandPayload{
			Command: append([]string{"sh", "-c", `for a in "$@"; do printf "%s" "$a" | od -An -tx1 | tr -d " \n"; echo; done`, "x"}, odd...),
		})
		if !res.Success {
			t.Fatal(res.Error)
		}
		for _, name := range odd {
			if !strings.Contains(log, fmt.Sprintf("stdout: %x\n", name)) && !strings.HasSuffix(log, fmt.Sprintf("stdout: %x", name)) {
				t.Errorf("the argument %q did not arrive:\n%s", name, log)
			}
		}
	})
}

// TestRestore: a failed deployment leaves the folder exactly as it was, and
// also one that has nothing of Stella's in it.
func TestRestore(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, s *sshd.Server) {
		f, dir := files(t, s)
		round := time.Nanosecond
		if s.Container != "" {
			round = time.Second // all that busybox's cp keeps
		}
		build := exec.Command("sh", "-ec", `
mkdir -p -m 750 'data/deep er' empty .hidden/.more ./-dash
echo one > data/one; ln data/one data/two; ln data/one top
ln -s data/one link; ln -s /nowhere 'dangling link'; ln -s data dirlink
echo odd > "$(printf 'a\nb\201\377')"; echo s > ./-dash/-file; : > .dot; : > ..dots
chmod 4751 data/two; chmod 000 .dot; chmod 1777 empty; mkfifo pipe
touch -d '2001-02-03 04:05:06.789' data/one .hidden ./-dash/-file; touch -h -d 2002-01-01 link
touch -d '2003-01-01' data
`)
		build.Dir = dir
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if s.Container != "" {
			s.Run("chown", "-R", "1000:1000", dir)
			s.Run("chmod", "400", filepath.Join(dir, ".dot"))
			s.Run("chmod", "4751", filepath.Join(dir, "data/two"))
		}
		before := listing(t, dir, round)
		broken := release("v2", script(`
rm -rf data .hidden; echo changed > top; mkdir -p new/er; : > new/er/file; chmod 777 empty; rm link; ln -s elsewhere link
echo over > ./-dash/-file; rm ..dots; mkdir ..dots; exit 3`),
			api.ArtifactReference{Name: "dangling link", Content: []byte("now a file")}, api.ArtifactReference{Name: "dirlink", Content: []byte("too")})
		res := fails(t, f, api.TaskDeploy, broken, api.ErrSwitchFailed, "deploy.sh", "exit code 3", "Nothing runs in")
		if res.RolledBack {
			t.Error("rolledBack is true, and there was nothing to go back to")
		}
		if diff := cmp.Diff(before, listing(t, dir, round)); diff != "" {
			t.Error(diff)
		}
		if left, _ := filepath.Glob(filepath.Join(dir, ".stella*")); len(left) > 0 {
			t.Errorf("left over: %v", left)
		}
		// The same over a release of Stella's.
		must(t, f, release("v1", api.ArtifactReference{Name: "data/only-v1", Content: []byte("1"), Mode: "0640"}))
		before = listing(t, dir, round)
		if res := fails(t, f, api.TaskDeploy, broken, api.ErrSwitchFailed, "The release v1 is in"); !res.RolledBack {
			t.Error("rolledBack is false")
		}
		if diff := cmp.Diff(before, listing(t, dir, round)); diff != "" {
			t.Error(diff)
		}
		// And by a rollback, on request.
		p := release("v2")
		p.Config.CleanupPrevious = new(bool)
		must(t, f, p)
		if res, log := executortest.Single(t, f, api.TaskRollback, api.RollbackPayload{}); !res.Success {
			t.Fatalf("%s\n%s", res.Error, log)
		}
		after := slices.DeleteFunc(listing(t, dir, round), func(s string) bool { return strings.Contains(s, `"version.json"`) })
		before = slices.DeleteFunc(before, func(s string) bool { return strings.Contains(s, `"version.json"`) })
		if diff := cmp.Diff(before, after); diff != "" {
			t.Error(diff)
		}
	})
}

// TestLinksOut: nothing is written through a link that leads out of the folder.
func TestLinksOut(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, s *sshd.Server) {
		f, dir := files(t, s)
		out := folder(t, s)
		for name, to := range map[string]string{"door": out, "up": "..", "dangling": out + "/none", "in": "inner"} {
			if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Mkdir(filepath.Join(dir, "inner"), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(dir, "inner"), 0o777); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"door/evil", "door/a/b", "up/evil", "dangling/evil"} {
			a := api.ArtifactReference{Name: name, Content: []byte("x")}
			fails(t, f, api.TaskUploadFiles, api.UploadPayload{Files: []api.ArtifactReference{a}}, api.ErrSwitchFailed, "leads out of")
			fails(t, f, api.TaskDeploy, release("v1", a), api.ErrSwitchFailed, "leads out of")
		}
		if left, _ := os.ReadDir(out); len(left) > 0 {
			t.Errorf("something was written outside: %v", left)
		}
		fails(t, f, api.TaskDeploy, release("v1", api.ArtifactReference{Name: "inner", Content: []byte("x")}), api.ErrSwitchFailed, "is a folder")
		must(t, f, release("v1", api.ArtifactReference{Name: "in/file", Content: []byte("x")}))
		if got := read(t, filepath.Join(dir, "inner", "file")); got != "x" {
			t.Errorf("inner/file is %q", got)
		}
	})
}

// TestNoSecretInArguments: what is secret is in no argument list of the host
// while it is used.
func TestNoSecretInArguments(t *testing.T) {
	t.Parallel()
	const password = "s3cr3t-of-arguments"
	s := sshd.Contain(t, sshd.Options{})
	f, dir := files(t, s)
	var seen, looks atomic.Int64
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
			}
			all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
			for _, file := range all {
				if data, err := os.ReadFile(file); err == nil && (strings.Contains(string(data), password) || strings.Contains(string(data), sshd.Password)) {
					seen.Add(1)
				}
			}
			looks.Add(1)
		}
	}()
	c := f.Target.Config.SSH
	c.Username, c.Sudo, c.SudoUser, c.SudoPasswordRef = sshd.Careful, true, sshd.App, "secret://sudo"
	f.Credentials.Secrets["sudo"] = sshd.Password
	p := release("v1", script("sleep 0.3; [ \"$PASSWORD\" = "+password+" ]"))
	p.Artifacts[1].Content = []byte(strings.ReplaceAll(string(p.Artifacts[1].Content), password, `"$AGAIN"`))
	p.Config.Environment = map[string]string{"PASSWORD": password, "AGAIN": password}
	p.Config.Start = "sleep 0.3"
	p.Hooks.PreDeploy = sh("sleep 0.3; [ -n \"$HOOKED\" ]")
	p.Hooks.PreDeploy.Environment = map[string]string{"HOOKED": password}
	must(t, f, p)
	close(stop)
	<-stopped
	if seen.Load() > 0 || looks.Load() < 10 {
		t.Errorf("seen in %d argument lists, in %d looks", seen.Load(), looks.Load())
	}
	info, err := os.Stat(filepath.Join(dir, ".stella-release.json"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	bad := release("v2")
	bad.Config.Environment = map[string]string{"not-a-name": "x"}
	fails(t, f, api.TaskDeploy, bad, api.ErrInvalidPayload, "not-a-name")
}

// TestNoSecretPassedOn: nor is it handed to any program that lives too shortly
// to be seen: all those of the host note what they get.
func TestNoSecretPassedOn(t *testing.T) {
	t.Parallel()
	notes, names := filepath.Join(t.TempDir(), "notes"), map[string]string{}
	for name := range strings.FieldsSeq("cat chmod cp dirname env grep ln mkdir mv rm rmdir sed sleep tail touch tr wc tar sudo setsid") {
		names[name] = `echo "$0 $*" >>` + notes + "\nexec REAL \"$@\""
	}
	s := hostWith(t, names)
	f, _ := files(t, s)
	const password = "s3cr3t-of-arguments"
	p := release("v1", script(`[ "$PASSWORD" = `+password[:6]+`"${PASSWORD#??????}" ]`))
	p.Config.Environment = map[string]string{"PASSWORD": password}
	p.Config.Start, p.Config.Stop = ":", ":"
	p.Hooks.PreDeploy, p.Hooks.PostDeploy = sh(`[ -n "$HOOKED" ]`), sh(":")
	p.Hooks.PreDeploy.Environment = map[string]string{"HOOKED": password}
	must(t, f, p)
	must(t, f, p)
	if os.Getuid() == 0 { // others would be asked for a password of their own
		c := f.Target.Config.SSH
		c.Sudo, c.SudoPasswordRef = true, "secret://sudo"
		f.Credentials.Secrets["sudo"] = sshd.Password
		must(t, f, p)
	}
	got := read(t, notes)
	if strings.Contains(got, password) || strings.Contains(got, sshd.Password) || !strings.Contains(got, "/env STELLA_SHELL_OF=") {
		t.Errorf("a secret was an argument, or nothing was noted:\n%s", got)
	}
}

func TestSudo(t *testing.T) {
	t.Parallel()
	s := sshd.Contain(t, sshd.Options{})
	s.Run("mkdir", "-p", "/srv/web")
	f, dir := files(t, s)
	f.Leftovers = func() []string { return nil }
	c := f.Target.Config.SSH
	f.Target.Config.Directory = "/srv/web"
	fails(t, f, api.TaskDeploy, release("v1"), api.ErrSwitchFailed, "app may not do that", "have the target use sudo")
	c.Sudo = true
	id := script(`id -un >who; echo "HOME is $HOME"`)
	must(t, f, release("v1", id, api.ArtifactReference{Name: "tool", Mode: "0751", Content: []byte("x")}))
	if got := s.Run("sh", "-c", "cd /srv/web && cat who version && stat -c '%U %a' tool .stella-release.json && ls -A /home/app"); got != "root\nv1root 751\nroot 600\n" {
		t.Errorf("%q", got)
	}
	fails(t, f, api.TaskDeploy, release("v2", script("exit 1")), api.ErrSwitchFailed, "The release v1")
	if res, log := executortest.Single(t, f, api.TaskExecuteCommand, api.CommandPayload{Command: []string{"id", "-un"}, User: sshd.Nobody}); !res.Success || !strings.Contains(log, "stdout: guest") {
		t.Errorf("%s\n%s", res.Error, log)
	}

	// With a password, as somebody else.
	f.Target.Config.Directory = dir
	c.Username, c.SudoUser = sshd.Careful, sshd.App
	fails(t, f, api.TaskInspect, nil, api.ErrTargetUnreachable, "sudo refused", "sudoPasswordRef")
	c.SudoPasswordRef = "secret://sudo"
	fails(t, f, api.TaskInspect, nil, api.ErrInvalidPayload, "no such secret")
	f.Credentials.Secrets["sudo"] = "wrong-password"
	fails(t, f, api.TaskInspect, nil, api.ErrTargetUnreachable, "sudo refused", "see that the password is right")
	f.Credentials.Secrets["sudo"] = sshd.Password
	must(t, f, release("v1", id))
	if got := read(t, filepath.Join(dir, "who")); got != "app\n" {
		t.Errorf("it ran as %q", got)
	}
	// One who needs none, and is given one all the same.
	c.Username = sshd.App
	must(t, f, release("v2", id))
	c.Username = sshd.Nobody
	fails(t, f, api.TaskInspect, nil, api.ErrTargetUnreachable, "sudo refused")
	c.Sudo, c.SudoUser, c.SudoPasswordRef = false, "", ""
	fails(t, f, api.TaskExecuteCommand, api.CommandPayload{Command: []string{"id"}, User: "root"}, api.ErrUnsupported, "uses sudo")
}

// TestDiskFull: a disk that is full in the middle leaves the version that was
// there.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	s := sshd.Contain(t, sshd.Options{Docker: []string{"--tmpfs", "/target:size=1m,mode=0777"}})
	f, _ := files(t, s)
	f.Target.Config.Directory = "/target"
	f.Running = func() string { return s.Run("cat", "/target/version") }
	f.Leftovers = func() []string {
		return strings.Fields(s.Run("sh", "-c", "cd /target && ls -A | grep '^.stella' | grep -v release.json || :"))
	}
	content := func(size int) api.ArtifactReference {
		return api.ArtifactReference{Name: "data", Content: []byte(strings.Repeat("x", size))}
	}
	must(t, f, release("v1", content(300<<10)))
	// The upload does not fit.
	fails(t, f, api.TaskDeploy, release("v2", content(2<<20)), api.ErrSwitchFailed, "the disk of 127.0.0.1 is full", "make room")
	executortest.Await(t, f, "v1")
	// The upload fits, and the backup beside it does not.
	fails(t, f, api.TaskDeploy, release("v2", content(500<<10)), api.ErrSwitchFailed, "is full")
	executortest.Await(t, f, "v1")
	// All fits, and what the script writes does not.
	fails(t, f, api.TaskDeploy, release("v2", content(10<<10), script("head -c 2000000 /dev/zero >fill")), api.ErrSwitchFailed, "The release v1")
	executortest.Await(t, f, "v1")
	// By sudo, the upload goes elsewhere first.
	f.Target.Config.SSH.Sudo = true
	fails(t, f, api.TaskDeploy, release("v2", content(2<<20)), api.ErrSwitchFailed, "is full")
	executortest.Await(t, f, "v1")
	must(t, f, release("v3", content(100<<10)))
}

// hostWith is a server whose programs are those that docs/ssh.md says are
// needed, and some shell scripts by name, in which REAL is the program's path.
func hostWith(t *testing.T, scripts map[string]string) *sshd.Server {
	t.Helper()
	bin := t.TempDir()
	for name := range strings.FieldsSeq("sh cat chmod cp dirname env grep ln mkdir mv rm rmdir sed sleep tail touch tr wc kill") {
		found, err := exec.LookPath(name)
		if err == nil && scripts[name] == "" {
			err = os.Symlink(found, filepath.Join(bin, name))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range scripts {
		found, err := exec.LookPath(name)
		if err == nil {
			err = os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+strings.ReplaceAll(text, "REAL", found)+"\n"), 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return sshd.Start(t, sshd.Options{Config: "SetEnv PATH=" + bin + " SHLVL=5\n"})
}

// TestMinimal: a host with nothing but what is needed, and with a grep that
// reads no NULs.
func TestMinimal(t *testing.T) {
	t.Parallel()
	s := hostWith(t, map[string]string{"grep": `case $1 in -*z*) exit 2 ;; esac; exec REAL "$@"`})
	f := fixture(t, s, artifact(t))
	for _, version := range []string{"v1", "v2"} {
		p := f.Deploy(version)
		p.Config.Stop = ""
		must(t, f, p)
		executortest.Await(t, f, version)
	}
	p := f.Deploy("v3")
	p.Hooks.PostDeploy = sh("exit 1")
	fails(t, f, api.TaskDeploy, p, api.ErrPostHookFailed)
	executortest.Await(t, f, "v2")
	fails(t, f, api.TaskInspect, nil, api.ErrSwitchFailed, "sha256sum is missing")
}

// TestBadDisk: a file that is not on the host as it was sent is not deployed.
func TestBadDisk(t *testing.T) {
	t.Parallel()
	s := hostWith(t, map[string]string{"sha256sum": `echo 00 >>0; exec REAL "$@"`})
	f, dir := files(t, s)
	fails(t, f, api.TaskDeploy, release("v1"), api.ErrDigestMismatch, "cannot be trusted")
	fails(t, f, api.TaskUploadFiles, api.UploadPayload{Files: release("v1").Artifacts}, api.ErrDigestMismatch)
	if left := listing(t, dir, 1); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}

// TestNewFolder: a failed first deployment leaves no folder, and what cannot be
// a folder is refused.
func TestNewFolder(t *testing.T) {
	t.Parallel()
	s := sshd.Start(t, sshd.Options{Config: "Subsystem sftp /no/such/program\n"})
	f, dir := files(t, s)
	f.Target.Config.Directory = filepath.Join(dir, "new")
	fails(t, f, api.TaskDeploy, release("v1"), api.ErrSwitchFailed, "has no SFTP", "Subsystem sftp internal-sftp")
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
	for _, bad := range []string{"", "relative/dir", "/", "/a\nb"} {
		f.Target.Config.Directory = bad
		fails(t, f, api.TaskInspect, nil, api.ErrInvalidPayload, "config.directory")
	}
	f.Target.Config.SSH = nil
	fails(t, f, api.TaskInspect, nil, api.ErrInvalidPayload)
	// A login without a shell.
	c := sshd.Start(t, sshd.Options{Config: "ForceCommand echo no shell for you\n"})
	f, _ = files(t, c)
	fails(t, f, api.TaskInspect, nil, api.ErrTargetUnreachable, "gives no shell")
}
