package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"stella-ops.org/stella/api"
)

const (
	sshTargets = 20
	sshRelease = 1 << 20 // bytes
	sshRounds  = 3
)

// sshDeploy measures a release of 1 MB on its way to 20 SSH servers on this
// machine, as one rollout, against the same done by Ansible with as many forks:
// the file, checked; a script, run; a file that says which version it is; a
// check that it runs.
func sshDeploy(ctx context.Context, e *env) ([]row, error) {
	for _, program := range []string{"sshd", "ssh-keygen", "ansible-playbook"} {
		if _, err := exec.LookPath(program); err != nil {
			fmt.Fprintf(os.Stderr, "  not measured: %v (scripts/peers install openssh-server ansible-core)\n", err)
			return nil, nil
		}
	}
	f, err := newSSHFarm(ctx, e)
	if err != nil {
		return nil, err
	}
	c, err := e.server(ctx, "ssh")
	if err != nil {
		return nil, err
	}
	defer c.stop()
	if err := e.agent(ctx, c, "ssh-agent", "--max-concurrent-tasks", fmt.Sprint(sshTargets)); err != nil {
		return nil, err
	}
	if err := f.addTargets(ctx, c); err != nil {
		return nil, err
	}
	var byStella, byAnsible []time.Duration
	for round := range sshRounds + 1 {
		release := make([]byte, sshRelease)
		_, _ = rand.Read(release) // never fails
		a, err := f.byStella(ctx, c, round, release)
		if err != nil {
			return nil, err
		}
		b, err := f.byAnsible(ctx, round, release)
		if err != nil {
			return nil, fmt.Errorf("by ansible: %w", err)
		}
		if round > 0 { // nothing is warm in the first
			byStella, byAnsible = append(byStella, a), append(byAnsible, b)
		}
	}
	a, b := median(byStella), median(byAnsible)
	ratio := float64(b) / float64(a)
	return []row{{
		"ssh deploy of 1 MB to 20 hosts, against Ansible", fmt.Sprintf("%.1f times faster", ratio), ">= 8 times faster", ratio >= 8,
		fmt.Sprintf("medians of %d each, in turn, 20 at a time: %s and %s (forks=20, pipelining, no facts)", sshRounds, ms(a), ms(b)),
	}}, nil
}

func median(all []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}

// sshFarm is SSH servers, each with a port and folders of its own.
type sshFarm struct {
	dir, user string
	ports     []int
	hostKey   string // the public one, the same for all
}

func newSSHFarm(ctx context.Context, e *env) (*sshFarm, error) {
	me, err := user.Current()
	if err != nil {
		return nil, err
	}
	f := &sshFarm{dir: filepath.Join(e.dir, "ssh"), user: me.Username}
	if err := os.Mkdir(f.dir, 0o755); err != nil { //nolint:gosec // sshd looks through it
		return nil, err
	}
	for _, name := range []string{"host", "login"} {
		if out, err := exec.CommandContext(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(f.dir, name)).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("ssh-keygen: %w\n%s", err, out)
		}
	}
	public, err := os.ReadFile(filepath.Join(f.dir, "host.pub"))
	if err != nil {
		return nil, err
	}
	f.hostKey = strings.Join(strings.Fields(string(public))[:2], " ")
	sshd, err := exec.LookPath("sshd")
	if err != nil {
		return nil, err
	}
	if os.Getuid() == 0 {
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil { //nolint:gosec // as sshd wants it
			return nil, err
		}
	}
	for i := range sshTargets {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		_ = l.Close() // the port is what was wanted
		_, text, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			return nil, err
		}
		port, err := strconv.Atoi(text)
		if err != nil {
			return nil, err
		}
		config := filepath.Join(f.dir, fmt.Sprintf("sshd-%d", i))
		// SHLVL tells a bash that it is not the first shell: what somebody has in
		// a .bashrc here is not to be measured, with either.
		text = fmt.Sprintf("Port %d\nListenAddress 127.0.0.1\nHostKey %s/host\nPidFile none\nAuthorizedKeysFile %s/login.pub\nStrictModes no\nUsePAM no\n"+
			"PermitRootLogin yes\nSubsystem sftp internal-sftp\nMaxStartups 1000\nMaxSessions 1000\nSetEnv SHLVL=5\n", port, f.dir, f.dir)
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			return nil, err
		}
		if _, err := e.start(ctx, fmt.Sprintf("sshd-%d", i), sshd, nil, "-D", "-e", "-f", config); err != nil {
			return nil, err
		}
		f.ports = append(f.ports, port)
	}
	return f, f.await(ctx)
}

// await waits until the last server answers.
func (f *sshFarm) await(ctx context.Context) error {
	addr := fmt.Sprintf("127.0.0.1:%d", f.ports[len(f.ports)-1])
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		if err == nil {
			return conn.Close()
		}
		if time.Now().After(deadline) {
			return err
		}
	}
}

func (f *sshFarm) addTargets(ctx context.Context, c *control) error {
	key, err := os.ReadFile(filepath.Join(f.dir, "login"))
	if err != nil {
		return err
	}
	if _, err := c.api.SetSecret(ctx, "login", string(key)); err != nil {
		return err
	}
	for i, port := range f.ports {
		req := api.TargetRequest{Name: fmt.Sprintf("box-%02d", i), Kind: "ssh", Agent: "ssh-agent", Config: api.TargetConfig{
			Directory: filepath.Join(f.dir, "stella", fmt.Sprint(i)),
			SSH: &api.SSHConfig{SSHHop: api.SSHHop{
				Host: "127.0.0.1", Port: port, Username: f.user, HostKeys: []string{f.hostKey}, PrivateKeyRef: "secret://login",
			}},
		}}
		if _, err := c.api.CreateTarget(ctx, req); err != nil {
			return err
		}
	}
	return nil
}

// script is what both run in the folder of the release.
const script = "#!/bin/sh\nset -e\ntest -s release.bin\ncp release.bin installed.bin\n"

func (f *sshFarm) byStella(ctx context.Context, c *control, round int, release []byte) (time.Duration, error) {
	began := time.Now()
	digest := fmt.Sprintf("sha256:%x", sha256.Sum256(release))
	if _, err := c.api.PushArtifact(ctx, api.ArtifactRequest{Digest: digest, Size: int64(len(release))}, bytes.NewReader(release), nil); err != nil {
		return 0, err
	}
	payload, err := json.Marshal(api.DeployPayload{
		Artifacts: []api.ArtifactReference{
			{Name: "release.bin", URL: api.ArtifactScheme + digest}, {Name: "deploy.sh", Type: "deploy_script", Content: []byte(script)},
		},
		Config: api.DeployConfig{
			ReleaseID:   fmt.Sprintf("r%d", round),
			HealthCheck: &api.HealthCheck{Type: "command", Command: []string{"test", "-s", "installed.bin"}, IntervalMs: 50, Timeout: 20},
		},
	})
	if err != nil {
		return 0, err
	}
	r, err := c.api.CreateRollout(ctx, api.RolloutRequest{Filter: "kind=ssh", Payload: payload, Strategy: "all-at-once"})
	if err != nil {
		return 0, err
	}
	for !r.State.Final() && r.State != api.RolloutStopped {
		time.Sleep(10 * time.Millisecond)
		if r, err = c.api.Rollout(ctx, r.ID); err != nil {
			return 0, err
		}
	}
	took := time.Since(began)
	if r.State != api.RolloutSucceeded {
		for i := range r.Targets {
			if t := &r.Targets[i]; t.Reason != "" {
				return 0, fmt.Errorf("deploy by Stella: %s: %s: %s", r.State, t.Name, t.Reason)
			}
		}
		return 0, fmt.Errorf("deploy by Stella: %s: %s", r.State, r.Reason)
	}
	return took, nil
}

const playbook = `- hosts: all
  gather_facts: false
  tasks:
    - file: {path: "{{ folder }}", state: directory, mode: "0755"}
    - copy: {src: "{{ source }}/release.bin", dest: "{{ folder }}/release.bin", mode: "0644"}
    - copy: {src: "{{ source }}/deploy.sh", dest: "{{ folder }}/deploy.sh", mode: "0755"}
    - command: {cmd: ./deploy.sh, chdir: "{{ folder }}"}
    - command: {cmd: test -s installed.bin, chdir: "{{ folder }}"}
    - copy: {content: "{\"releaseId\": \"{{ release }}\"}\n", dest: "{{ folder }}/version.json", mode: "0644"}
`

func (f *sshFarm) byAnsible(ctx context.Context, round int, release []byte) (time.Duration, error) {
	dir := filepath.Join(f.dir, "ansible")
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return 0, err
	}
	var inventory strings.Builder
	for i, port := range f.ports {
		fmt.Fprintf(&inventory, "box-%02d ansible_host=127.0.0.1 ansible_port=%d folder=%s\n", i, port, filepath.Join(f.dir, "by-ansible", fmt.Sprint(i)))
	}
	fmt.Fprintf(&inventory, "[all:vars]\nansible_user=%s\nansible_ssh_private_key_file=%s/login\nsource=%s\nrelease=r%d\n", f.user, f.dir, dir, round)
	known := strings.Builder{}
	for _, port := range f.ports {
		fmt.Fprintf(&known, "[127.0.0.1]:%d %s\n", port, f.hostKey)
	}
	for name, text := range map[string]string{
		"inventory": inventory.String(), "playbook.yml": playbook, "deploy.sh": script, "release.bin": string(release), "known_hosts": known.String(),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return 0, err
		}
	}
	cmd := exec.CommandContext(ctx, "ansible-playbook", "-i", "inventory", "--forks", fmt.Sprint(sshTargets), "playbook.yml")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "ANSIBLE_PIPELINING=True", "ANSIBLE_NOCOLOR=1", "LC_ALL=C.UTF-8", "HOME="+dir,
		"ANSIBLE_SSH_ARGS=-o ControlMaster=auto -o ControlPersist=60s -o UserKnownHostsFile="+filepath.Join(dir, "known_hosts"))
	began := time.Now()
	out, err := cmd.CombinedOutput()
	took := time.Since(began)
	if err != nil {
		return 0, errors.Join(err, fmt.Errorf("%s", out))
	}
	return took, nil
}
