package deploy

import (
	"maps"
	"slices"
	"strings"

	"stella-ops.org/stella/api"
)

// minSecret is the length below which a value is not masked: masking every
// "1" or "true" would hide what went wrong and keep nothing secret.
const minSecret = 6

// SecretsOf are the values of a deployment that may be secret: credentials,
// and the values of environment variables.
func SecretsOf(c *api.Credentials, p *api.DeployPayload) []string {
	var all []string
	if c != nil {
		all = slices.AppendSeq(all, maps.Values(c.Secrets))
		if c.Registry != nil {
			all = append(all, c.Registry.Password, c.Registry.Token)
		}
	}
	if p != nil {
		all = slices.AppendSeq(all, maps.Values(p.Config.Environment))
		for _, h := range []*api.Hook{p.Hooks.PreDeploy, p.Hooks.PostDeploy} {
			if h != nil {
				all = slices.AppendSeq(all, maps.Values(h.Environment))
			}
		}
	}
	return all
}

// mask takes secrets out of a failure, which goes into the journal: what
// failed may have said them (a program's last words, a server's answer).
func (f *Failure) mask(secrets []string) {
	var pairs []string
	for _, s := range slices.SortedFunc(slices.Values(secrets), func(a, b string) int { return len(b) - len(a) }) {
		if len(s) >= minSecret {
			pairs = append(pairs, s, "***")
		}
	}
	if len(pairs) == 0 {
		return
	}
	r := strings.NewReplacer(pairs...)
	f.Message = r.Replace(f.Message)
	if f.Outputs == nil {
		return
	}
	outputs := maps.Clone(f.Outputs)
	for name, value := range outputs {
		switch v := value.(type) {
		case string:
			outputs[name] = r.Replace(v)
		case []string:
			lines := make([]string, len(v))
			for i, line := range v {
				lines[i] = r.Replace(line)
			}
			outputs[name] = lines
		}
	}
	f.Outputs = outputs
}
