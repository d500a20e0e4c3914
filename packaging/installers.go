package packaging

import (
	"embed"
	"fmt"
	"regexp"
	"strings"
)

//go:embed install.sh install.ps1
var installers embed.FS

// Fill is what a server puts into an installer.
type Fill struct {
	Server string // its URL
	// Token is a registration token; empty for a file that anybody may have.
	Token string
	// Sums are the SHA-256 of the agents that it has for the system, in hex, by
	// architecture.
	Sums []Sum
}

// Sum is the checksum of a program for an architecture, as in amd64.
type Sum struct{ Arch, SHA256 string }

// harmless is what may stand between single quotes in both shells, and in a
// configuration file between double ones.
var harmless = regexp.MustCompile(`^[A-Za-z0-9._~:/@%+=,\[\]-]*$`)

// Installer returns the installer for a system, linux or windows, filled in. The
// same input gives the same bytes. It fails for another system, and for what
// could be taken for code.
func Installer(system string, f Fill) (string, error) {
	for _, v := range []string{f.Server, f.Token} {
		if !harmless.MatchString(v) {
			return "", fmt.Errorf("an installer cannot be made: %q has characters that would need quoting", v)
		}
	}
	switch system {
	case "linux":
		lines := make([]string, len(f.Sums))
		for i, s := range f.Sums {
			lines[i] = s.SHA256 + " " + s.Arch
		}
		return fill("install.sh", map[string]string{
			"server='' ": "server='" + f.Server + "' ", "token=''  ": "token='" + f.Token + "'  ",
			"sums=''   ": "sums='" + strings.Join(lines, "\n") + "'   ",
		})
	case "windows":
		items := make([]string, len(f.Sums))
		for i, s := range f.Sums {
			items[i] = "'" + s.Arch + "' = '" + s.SHA256 + "'"
		}
		filled := map[string]string{
			"$Server = '' ": "$Server = '" + f.Server + "' ",
			"$Sums = @{} ":  "$Sums = @{ " + strings.Join(items, "; ") + " } ",
		}
		if f.Token != "" {
			return "", fmt.Errorf("the installer for Windows takes no token with it: give it by STELLA_BOOTSTRAP_TOKEN")
		}
		return fill("install.ps1", filled)
	}
	return "", fmt.Errorf("there is no installer for %s", system)
}

// fill replaces the beginnings of lines, each of which there is once.
func fill(name string, lines map[string]string) (string, error) {
	data, err := installers.ReadFile(name)
	if err != nil {
		return "", err
	}
	text := string(data)
	for from, to := range lines {
		if strings.Count(text, "\n"+from) != 1 {
			return "", fmt.Errorf("%s has not one line that begins with %q", name, from)
		}
		text = strings.Replace(text, "\n"+from, "\n"+to, 1)
	}
	return text, nil
}
