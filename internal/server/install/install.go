// Package install is what a host gets from a server to become an agent: the
// installers, filled in, the agents' programs with their checksums, and the one
// line that begins it all. It knows nothing of HTTP and of who may ask.
package install

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"

	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/packaging"
)

// The platforms that there are installers for.
const (
	Linux   = "linux"
	Windows = "windows"
	Docker  = "docker"
)

// Installers gives out what a server has for new hosts. It is safe for
// concurrent use.
type Installers struct {
	Agents *Agents
	// Version is that of the server, and so of the image.
	Version string
	// Pins are those of the servers' keys, as curl takes them.
	Pins func() []string
	// Names are the names and addresses that the server's certificate is for.
	Names []string
}

// Script is the installer for a platform, with a server's URL in it, and with a
// token when there is one. The same input gives the same bytes, as long as the
// programs are the same. There is none for Docker, which is a fault of kind
// NotFound.
func (i *Installers) Script(platform, server, token string) (string, error) {
	if platform != Linux && platform != Windows {
		return "", fault.New(fault.NotFound, "installer_not_found", "there is no installer for the platform %q: for linux and windows there are", platform)
	}
	all, err := i.Agents.All()
	if err != nil {
		return "", err
	}
	f := packaging.Fill{Server: server, Token: token}
	for _, p := range all {
		if p.OS == platform {
			f.Sums = append(f.Sums, packaging.Sum{Arch: p.Arch, SHA256: p.SHA256})
		}
	}
	return packaging.Installer(platform, f)
}

// Checksums lists the programs as sha256sum does.
func (i *Installers) Checksums() (string, error) {
	all, err := i.Agents.All()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, p := range all {
		fmt.Fprintf(&b, "%s  %s\n", p.SHA256, p.Name())
	}
	return b.String(), nil
}

// CheckServer checks a URL that agents are to reach the server by: it must be
// one that the server's certificate is good for. It returns the URL as agents
// take it.
func (i *Installers) CheckServer(text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "" {
		return "", fault.InvalidField("body.serverUrl", "it is no address of a server: write it as in https://stella.example.com:8443")
	}
	same := func(name string) bool {
		ip := net.ParseIP(name)
		return strings.EqualFold(name, u.Hostname()) || ip != nil && ip.Equal(net.ParseIP(u.Hostname()))
	}
	if !slices.ContainsFunc(i.Names, same) {
		return "", fault.InvalidField("body.serverUrl", "the server's certificate is not for %s, so agents would refuse it there: it is for %s; start the server with --advertise %s",
			u.Hostname(), strings.Join(i.Names, ", "), text)
	}
	return "https://" + u.Host, nil
}

// Configuration is the agent's configuration file, as installers write it.
func Configuration(name, server string) string {
	text := "agent:\n"
	if name != "" {
		text += fmt.Sprintf("  name: %q\n", name)
	}
	return text + fmt.Sprintf("  orchestrator_url: %q\n", server)
}

// Command is a line to type on a host.
type Command struct {
	When string // what it needs, in words
	Line string
}

// Commands are the lines that make a host an agent by a token, the usual one
// first. The token goes through the environment, so that no list of processes
// shows it.
func (i *Installers) Commands(platform, server, token string) ([]Command, error) {
	if strings.ContainsAny(server+token, "'\"\\ \n") {
		return nil, errors.New("the server's URL or the token cannot be quoted")
	}
	if platform == Docker {
		return []Command{{When: "with the image stella/agent", Line: "STELLA_BOOTSTRAP_TOKEN=" + token + " docker run -d --name stella-agent --restart unless-stopped" +
			" -e STELLA_BOOTSTRAP_TOKEN -e STELLA_SERVER=" + server + " -v stella-agent:/var/lib/stella-agent -v /var/run/docker.sock:/var/run/docker.sock" +
			` --group-add "$(stat -c %g /var/run/docker.sock)" stella/agent:` + imageTag(i.Version)}}, nil
	}
	script, err := i.Script(platform, server, "")
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256([]byte(script))
	sum := hex.EncodeToString(digest[:])
	if platform == Windows {
		return []Command{{When: "in PowerShell, as administrator", Line: `$f = "$env:TEMP\stella-install.ps1"; curl.exe -fsSk -o $f ` + server + "/install.ps1" +
			"; if ((Get-FileHash $f).Hash -ne '" + sum + "') { throw 'this is not the installer of " + server + "' }" +
			"; $env:STELLA_BOOTSTRAP_TOKEN = '" + token + "'; powershell -ExecutionPolicy Bypass -File $f"}}, nil
	}
	pins := i.Pins()
	for n, p := range pins {
		pins[n] = "sha256//" + p
	}
	run := "STELLA_BOOTSTRAP_TOKEN=" + token + ` sh "$f"`
	return []Command{
		{When: "with curl", Line: "f=$(mktemp) && curl -fsSk --pinnedpubkey '" + strings.Join(pins, ";") + `' -o "$f" ` + server + "/install.sh && " + run},
		{When: "with wget", Line: `f=$(mktemp) && wget -q --no-check-certificate -O "$f" ` + server + `/install.sh && echo "` + sum + `  $f" | sha256sum -c - && ` + run},
	}, nil
}

// imageTag is a version as the tag of an image.
func imageTag(version string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune("+~/: ", r) {
			return '-'
		}
		return r
	}, version)
}
