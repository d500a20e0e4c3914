// Package packaging holds what is installed on hosts beside the programs: the
// units by which service managers start the agent. Installers, packages and
// `stella-agent unit` all take them from here, so that there is one of each.
//
// It knows nothing of the programs but their names.
package packaging

import (
	_ "embed"
	"fmt"
	"path"
	"regexp"
	"strings"
)

// defaultBinary is where the units say that the agent is, which is where
// install.sh puts it.
const defaultBinary = "/usr/local/bin/stella-agent"

//go:embed systemd/stella-agent.service
var systemdUnit string

//go:embed openrc/stella-agent
var openrcScript string

// plain is a path that neither systemd nor a shell takes for anything else.
var plain = regexp.MustCompile(`^/[A-Za-z0-9._/+@-]*$`)

// Unit returns the unit by which a service manager starts the agent: kind is
// "systemd" (a .service file) or "openrc" (a script for /etc/init.d), and binary
// the agent's absolute path. It fails when the kind is another, or when the path is
// not absolute, not clean (as path.Clean makes it), or has characters in it that
// would have to be quoted. It is safe for concurrent use.
func Unit(kind, binary string) (string, error) {
	var unit string
	switch kind {
	case "systemd":
		unit = systemdUnit
	case "openrc":
		unit = openrcScript
	default:
		return "", fmt.Errorf("there is no unit for %q: use systemd or openrc", kind)
	}
	if !plain.MatchString(binary) || path.Clean(binary) != binary || binary == "/" {
		return "", fmt.Errorf("a unit cannot name the agent at %q: put it at an absolute path of letters, digits and the signs . _ / + @ -, as %s", binary, defaultBinary)
	}
	return strings.ReplaceAll(unit, defaultBinary, binary), nil
}
