// Package peers tells tests where the real peers are: a Docker engine,
// registries, a database, OpenSSH, a host with systemd. `scripts/peers` starts them and says where they are
// in the environment.
//
// A test whose peer is missing is skipped, with the reason; with
// STELLA_PEERS=required it fails.
package peers

import (
	"os"
	"os/exec"
	"testing"
)

// Docker is the address of a Docker engine, as in unix:///var/run/docker.sock.
func Docker(t testing.TB) string {
	t.Helper()
	return need(t, "a Docker engine", "STELLA_TEST_DOCKER_HOST")
}

// Compose is a configuration folder of docker's that has the compose plugin, or
// with which docker finds the one that the machine has.
func Compose(t testing.TB) string {
	t.Helper()
	return need(t, "the docker compose plugin", "STELLA_TEST_COMPOSE")
}

// Registry is the host and port of an OCI registry that anybody may push to.
func Registry(t testing.TB) string {
	t.Helper()
	return need(t, "an OCI registry", "STELLA_TEST_REGISTRY")
}

// Private is a registry that asks for a password.
type Private struct {
	Address, Username, Password string
}

// PrivateRegistry is an OCI registry that asks for a password.
func PrivateRegistry(t testing.TB) Private {
	t.Helper()
	return Private{
		Address:  need(t, "a private OCI registry", "STELLA_TEST_REGISTRY_PRIVATE"),
		Username: need(t, "a private OCI registry", "STELLA_TEST_REGISTRY_USER"),
		Password: need(t, "a private OCI registry", "STELLA_TEST_REGISTRY_PASSWORD"),
	}
}

// Postgres is the URL of a database that a test may make schemas in.
func Postgres(t testing.TB) string {
	t.Helper()
	return need(t, "PostgreSQL", "STELLA_TEST_POSTGRES")
}

// SSHD is the path of OpenSSH's server, beside which sudo and a static busybox
// are installed; testkit/sshd starts it.
func SSHD(t testing.TB) string {
	t.Helper()
	return need(t, "OpenSSH's server", "STELLA_TEST_SSHD")
}

// Tool is the path of a program that checks what we hand to others, as
// systemd-analyze does; the machine's packages bring it.
func Tool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("STELLA_PEERS") == "required" {
			t.Fatalf("this test needs %s: install it", name)
		}
		t.Skipf("this test needs %s, which is not installed", name)
	}
	return path
}

// Systemd is an image of a host that boots by systemd; testkit/systemd starts it
// in a Docker engine.
func Systemd(t testing.TB) string {
	t.Helper()
	return need(t, "the image of a host with systemd", "STELLA_TEST_SYSTEMD")
}

// PowerShell is a folder of node's modules, in which a grammar of PowerShell is;
// node is on the PATH.
func PowerShell(t testing.TB) string {
	t.Helper()
	return need(t, "a grammar of PowerShell", "STELLA_TEST_POWERSHELL")
}

func need(t testing.TB, what, variable string) string {
	t.Helper()
	value := os.Getenv(variable)
	if value == "" {
		const how = "this test needs %s and %s is not set; run `scripts/peers up` and `eval \"$(scripts/peers env)\"`"
		if os.Getenv("STELLA_PEERS") == "required" {
			t.Fatalf(how, what, variable)
		}
		t.Skipf(how, what, variable)
	}
	return value
}
