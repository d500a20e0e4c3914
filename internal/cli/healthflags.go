package cli

import (
	"github.com/spf13/pflag"

	"stella-ops.org/stella/api"
)

// healthFlags say how to find out whether a version works.
type healthFlags struct {
	http, tcp, cmd string
	docker         bool
	status         int
	body           string
	timeout        seconders
	prefixed       bool // the flags begin with health-
}

func (f *healthFlags) add(flags *pflag.FlagSet, prefixed bool) {
	prefix := ""
	f.prefixed = prefixed
	if prefixed {
		prefix = "health-"
		flags.Var(&f.timeout, "health-timeout", "how long it may take to become healthy; 1m when left out")
	} else {
		f.timeout = seconders{value: 5, text: "5s"}
		flags.Var(&f.timeout, "within", "how long it may take to pass")
	}
	flags.StringVar(&f.http, prefix+"http", "", "healthy when this `URL`, called from the agent's host, answers well")
	flags.IntVar(&f.status, prefix+"http-status", 0, "the `status` that the URL must answer with; 200 to 399 when left out")
	flags.StringVar(&f.body, prefix+"http-body", "", "a `text` that the URL's answer must contain")
	flags.StringVar(&f.tcp, prefix+"tcp", "", "healthy when this `host:port` takes connections")
	flags.StringVar(&f.cmd, prefix+"cmd", "", "healthy when this `command` exits with 0; on docker it runs in the container, otherwise on the agent's host")
	flags.BoolVar(&f.docker, prefix+"docker", false, "docker, compose: healthy when the images' own HEALTHCHECK says so")
}

// check returns nil when no flag asks for a check.
func (f *healthFlags) check() (*api.HealthCheck, error) {
	h := &api.HealthCheck{Timeout: f.timeout.value}
	given := 0
	if f.http != "" {
		given++
		h.Type, h.URL, h.ExpectedStatus, h.ExpectedBody = "http", f.http, f.status, f.body
	}
	if f.tcp != "" {
		given++
		h.Type, h.Address = "tcp", f.tcp
	}
	if f.cmd != "" {
		given++
		words, err := splitWords(f.cmd)
		if err != nil {
			return nil, err
		}
		h.Type, h.Command = "command", words
	}
	if f.docker {
		given++
		h.Type = "docker"
	}
	switch {
	case given > 1:
		return nil, wrongUse("choose one", "there can be one health check, and %d are given", given)
	case f.http == "" && (f.status != 0 || f.body != ""):
		return nil, wrongUse("give the URL too", "a status or a text is expected of an http check only")
	case given == 0 && f.timeout.value > 0 && f.prefixed:
		return nil, wrongUse("say what to check, as in --health-http URL", "--health-timeout is for a health check, and there is none")
	case given == 0:
		return nil, nil //nolint:nilnil // no check is none
	}
	return h, nil
}
