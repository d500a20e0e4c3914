package docker

import (
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/opencontainers/go-digest"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/deploy"
	"stella-ops.org/stella/internal/executor/healthcheck"
	"stella-ops.org/stella/internal/executor/hook"
)

var (
	namePattern     = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,200}$`)
	previousPattern = regexp.MustCompile(`-previous-[0-9]+$`)
)

func invalid(format string, args ...any) error {
	return deploy.Fail(api.ErrInvalidPayload, format, args...)
}

// containerName is the container that a task is about.
func (t *target) containerName(given string) (string, error) {
	name := given
	if name == "" {
		name = t.task.Target.Name
	}
	if !namePattern.MatchString(name) {
		return "", invalid("%q cannot name a container; set config.containerName to letters, digits, _ . and -", name)
	}
	return name, nil
}

// image is a repository at a digest.
type image struct {
	named  reference.Named
	digest digest.Digest
}

func parseImage(repository, dgst string) (image, error) {
	named, err := reference.ParseNormalizedNamed(repository)
	if err != nil {
		return image{}, invalid("image %q is no repository: %w", repository, err)
	}
	if !reference.IsNameOnly(named) {
		return image{}, invalid("image %q has a tag or a digest in it; name the repository alone, and the digest in its own field", repository)
	}
	d, err := digest.Parse(dgst)
	if err != nil {
		return image{}, invalid("digest %q is not sha256: and 64 hexadecimal digits: %w", dgst, err)
	}
	return image{named: named, digest: d}, nil
}

// String is the reference as the engine shows it: repository@digest.
func (i image) String() string { return reference.FamiliarName(i.named) + "@" + i.digest.String() }

// among says whether one of an image's RepoDigests is this very image. An
// engine lists a digest for each repository that it saw an image in; only the
// one of this repository says that the registry vouched for it here.
func (i image) among(repoDigests []string) bool {
	for _, s := range repoDigests {
		named, err := reference.ParseNormalizedNamed(s)
		if err != nil {
			continue
		}
		if d, ok := named.(reference.Digested); ok && named.Name() == i.named.Name() && d.Digest() == i.digest {
			return true
		}
	}
	return false
}

// digestOf is the digest in a container's image reference, if it has one.
func digestOf(ref string) string {
	if _, d, ok := strings.Cut(ref, "@"); ok {
		return d
	}
	return ""
}

// validate checks what can be checked without the engine.
func validate(p *api.DeployPayload) error {
	c := &p.Config
	if _, _, err := parsePorts(c.Ports); err != nil {
		return err
	}
	if _, err := parseRestart(c.RestartPolicy); err != nil {
		return err
	}
	for _, v := range c.Volumes {
		parts := strings.Split(v, ":")
		if len(parts) < 2 || len(parts) > 3 || parts[0] == "" || !strings.HasPrefix(parts[1], "/") {
			return invalid("volume %q is not source:/target[:ro]", v)
		}
	}
	for name := range c.Environment {
		if name == "" || strings.ContainsAny(name, "=\x00") {
			return invalid("config.environment has a name that no environment can hold: %q", name)
		}
	}
	if err := hook.Validate("preDeploy", p.Hooks.PreDeploy); err != nil {
		return err
	}
	if err := hook.Validate("postDeploy", p.Hooks.PostDeploy); err != nil {
		return err
	}
	return healthcheck.Validate(c.HealthCheck, "http", "tcp", "command", "docker")
}

// parsePorts reads [ip:]host:container[/protocol].
func parsePorts(ports []string) (network.PortSet, network.PortMap, error) {
	exposed, bindings := network.PortSet{}, network.PortMap{}
	for _, s := range ports {
		bad := func(why string) error {
			return invalid("port %q %s; write [ip:]host:container[/protocol], as in 127.0.0.1:8080:80/tcp", s, why)
		}
		rest, containerPort, ok := cutLast(s, ":")
		if !ok {
			return nil, nil, bad("names no port of the host")
		}
		port, err := network.ParsePort(containerPort)
		if err != nil || port.Num() == 0 {
			return nil, nil, bad("names no port of the container")
		}
		var binding network.PortBinding
		binding.HostPort = rest
		if ip, hostPort, ok := cutLast(rest, ":"); ok {
			binding.HostPort = hostPort
			if binding.HostIP, err = netip.ParseAddr(strings.Trim(ip, "[]")); err != nil {
				return nil, nil, bad("names no address of the host")
			}
		}
		if n, err := strconv.ParseUint(binding.HostPort, 10, 16); err != nil || n == 0 {
			return nil, nil, bad("names no port of the host")
		}
		exposed[port] = struct{}{}
		bindings[port] = append(bindings[port], binding)
	}
	return exposed, bindings, nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// parseRestart reads no, always, unless-stopped or on-failure[:n].
func parseRestart(s string) (container.RestartPolicy, error) {
	name, count, counted := strings.Cut(s, ":")
	switch policy := container.RestartPolicyMode(name); policy {
	case "":
		return container.RestartPolicy{Name: container.RestartPolicyUnlessStopped}, nil
	case container.RestartPolicyDisabled, container.RestartPolicyAlways, container.RestartPolicyUnlessStopped:
		if !counted {
			return container.RestartPolicy{Name: policy}, nil
		}
	case container.RestartPolicyOnFailure:
		n := 0
		if counted {
			var err error
			if n, err = strconv.Atoi(count); err != nil || n < 0 {
				break
			}
		}
		return container.RestartPolicy{Name: policy, MaximumRetryCount: n}, nil
	}
	return container.RestartPolicy{}, invalid("restartPolicy %q is not no, always, unless-stopped or on-failure[:n]", s)
}
