// Package setup reads what an agent that has registered needs to connect: where
// its server is, whom it trusts, and who it is.
package setup

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"os"
)

// Identity is an agent's, as registration gave it.
type Identity struct {
	// Server is the server's address, as in https://localhost:8443.
	Server string
	Agent  string
	TLS    *tls.Config
}

// FromFlags reads the command line of a program.
func FromFlags() (*Identity, error) {
	server := flag.String("server", "", "the server's address, as in https://localhost:8443")
	agent := flag.String("agent", "", "the agent's id")
	ca := flag.String("ca", "ca.pem", "the root certificate to trust")
	cert := flag.String("cert", "cert.pem", "the agent's certificate")
	key := flag.String("key", "key.pem", "the key of that certificate")
	flag.Parse()
	if *server == "" || *agent == "" {
		return nil, errors.New("-server and -agent are needed")
	}
	root, err := os.ReadFile(*ca)
	if err != nil {
		return nil, fmt.Errorf("read the root certificate: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(root) {
		return nil, fmt.Errorf("%s holds no certificate", *ca)
	}
	own, err := tls.LoadX509KeyPair(*cert, *key)
	if err != nil {
		return nil, fmt.Errorf("read the agent's certificate: %w", err)
	}
	return &Identity{Server: *server, Agent: *agent, TLS: &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: roots, Certificates: []tls.Certificate{own},
	}}, nil
}
