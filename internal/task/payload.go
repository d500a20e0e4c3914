package task

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"stella-ops.org/stella/api"
	"stella-ops.org/stella/internal/fault"
	"stella-ops.org/stella/internal/target"
)

// content is the part of a task that is kept encrypted: all of it, as it will
// go to the agent.
type content struct {
	Payload     json.RawMessage  `json:"payload"`
	Credentials *api.Credentials `json:"credentials,omitempty"`
}

// masked stands where a value is kept from view.
const masked = "***"

// check decodes a payload strictly, as its type asks for, and returns it
// whole, as people may see it, and what it needs of Stella's store.
func check(typ api.TaskType, tgt *target.Target, raw json.RawMessage) (whole, public json.RawMessage, needs []Artifact, err error) {
	if len(bytes.TrimSpace(raw)) == 0 {
		raw = json.RawMessage("{}")
	}
	var p interface{ public() any }
	switch typ {
	case api.TaskDeploy:
		p = &deployPayload{}
	case api.TaskRollback:
		p = &rollbackPayload{}
	case api.TaskHealthCheck:
		p = &healthPayload{}
	case api.TaskInspect:
		p = &inspectPayload{}
	case api.TaskExecuteCommand:
		p = &commandPayload{}
	case api.TaskUploadFiles:
		p = &uploadPayload{}
	case api.TaskWriteSticker:
		p = &stickerPayload{}
	case api.TaskReadSticker:
		p = &inspectPayload{}
	default:
		return nil, nil, nil, fault.InvalidField("body.type", "%q is no task type", typ)
	}
	if err := decodeStrict(raw, p); err != nil {
		return nil, nil, nil, err
	}
	if v, ok := p.(interface{ validate(*target.Target) error }); ok {
		if err := v.validate(tgt); err != nil {
			return nil, nil, nil, err
		}
	}
	if whole, err = json.Marshal(p); err != nil {
		return nil, nil, nil, fmt.Errorf("encode payload: %w", err)
	}
	if public, err = json.Marshal(p.public()); err != nil {
		return nil, nil, nil, fmt.Errorf("encode public payload: %w", err)
	}
	if v, ok := p.(stored); ok {
		needs = v.artifacts()
	}
	return whole, public, needs, nil
}

// decodeStrict names the field that does not fit.
func decodeStrict(raw json.RawMessage, into any) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	err := dec.Decode(into)
	if err == nil {
		if _, more := dec.Token(); !errors.Is(more, io.EOF) {
			return fault.InvalidField("body.payload", "there is something behind the payload's object")
		}
		return nil
	}
	if typeErr, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		// The path begins with the name of the type that is embedded.
		_, field, _ := strings.Cut(typeErr.Field, ".")
		return fault.InvalidField(strings.TrimSuffix("body.payload."+field, "."), "a value of type %s does not fit here", typeErr.Value)
	}
	if field, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return fault.InvalidField("body.payload."+strings.Trim(field, `"`), "there is no such field")
	}
	return fault.InvalidField("body.payload", "it does not parse: %s", strings.TrimPrefix(err.Error(), "json: "))
}

type (
	deployPayload   struct{ api.DeployPayload }
	rollbackPayload struct{ api.RollbackPayload }
	healthPayload   struct{ api.HealthCheckPayload }
	inspectPayload  struct{ api.InspectPayload }
	commandPayload  struct{ api.CommandPayload }
	uploadPayload   struct{ api.UploadPayload }
	stickerPayload  struct{ api.StickerPayload }
)

var (
	digestPattern    = regexp.MustCompile(`^sha256:[a-f0-9]{64}$`)
	containerPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$`)
	releasePattern   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$`)
	modePattern      = regexp.MustCompile(`^0?[0-7]{3,4}$`)
)

func (p *deployPayload) validate(tgt *target.Target) error {
	const at = "body.payload."
	switch tgt.Kind {
	case "docker":
		if p.Image == "" {
			return fault.InvalidField(at+"image", "say which image to deploy")
		}
		if i := strings.LastIndexByte(p.Image, '/'); strings.ContainsAny(p.Image[i+1:], ":@") || strings.Contains(p.Image, "@") {
			return fault.InvalidField(at+"image", "%q has a tag or digest in it: give the repository here and the digest in its own field, for a tag may be moved (`stella deploy` resolves one)", p.Image)
		}
		if p.Digest == "" {
			return fault.InvalidField(at+"digest", "an image is deployed by digest only, as in sha256:…; `stella deploy` resolves a tag to its digest")
		}
		if !digestPattern.MatchString(p.Digest) {
			return fault.InvalidField(at+"digest", "%q is no digest: it is sha256: and 64 hexadecimal digits", clip(p.Digest))
		}
		if len(p.Artifacts) > 0 {
			return fault.InvalidField(at+"artifacts", "a docker target takes an image, not artifacts")
		}
	default:
		if err := p.validateFiles(at, tgt); err != nil {
			return err
		}
	}
	c := &p.Config
	if c.ContainerName != "" && !containerPattern.MatchString(c.ContainerName) {
		return fault.InvalidField(at+"config.containerName", "%q is no usable container name", clip(c.ContainerName))
	}
	if c.ReleaseID != "" && !releasePattern.MatchString(c.ReleaseID) {
		return fault.InvalidField(at+"config.releaseId", "%q is no usable release id: give letters, digits, dots, underscores or hyphens", clip(c.ReleaseID))
	}
	for name := range c.Environment {
		if name == "" || strings.ContainsAny(name, "=\x00") {
			return fault.InvalidField(at+"config.environment", "%q is no name of an environment variable", clip(name))
		}
	}
	for _, h := range []struct {
		name string
		hook *api.Hook
	}{{"preDeploy", p.Hooks.PreDeploy}, {"postDeploy", p.Hooks.PostDeploy}} {
		if h.hook != nil && len(h.hook.Command) == 0 {
			return fault.InvalidField(at+"hooks."+h.name+".command", "a hook needs a program to run")
		}
	}
	return checkHealth(at+"config.healthCheck", tgt.Kind, c.HealthCheck)
}

// artifactTypes are the types of files that a kind of target takes.
var artifactTypes = map[string][]string{
	"compose": {"compose_lock", "file", "env_file"},
	"ssh":     {"file", "deploy_script"},
	"host":    {"file", "deploy_script", "systemd_unit"},
}

// validateFiles checks a deployment that is made of files.
func (p *deployPayload) validateFiles(at string, tgt *target.Target) error {
	if p.Image != "" || p.Digest != "" {
		return fault.InvalidField(at+"image", "target %s is of kind %s: it takes artifacts, not an image", tgt.Name, tgt.Kind)
	}
	if len(p.Artifacts) == 0 {
		return fault.InvalidField(at+"artifacts", "a release needs at least one file")
	}
	if p.Config.Unit != "" && tgt.Kind != "host" {
		return fault.InvalidField(at+"config.unit", "only a host target has systemd units")
	}
	if p.Config.Unit != "" && (p.Config.Start != "" || p.Config.Stop != "") {
		return fault.InvalidField(at+"config.unit", "give either a systemd unit or start and stop commands")
	}
	if err := checkArtifacts(at+"artifacts", p.Artifacts, artifactTypes[tgt.Kind]...); err != nil {
		return err
	}
	if tgt.Kind != "compose" {
		return nil
	}
	locks := 0
	for i := range p.Artifacts {
		if p.Artifacts[i].Type == "compose_lock" {
			locks++
		}
	}
	if locks != 1 {
		return fault.InvalidField(at+"artifacts", "a compose deployment has one artifact of type compose_lock, and here are %d; `stella compose lock` makes one of a compose file", locks)
	}
	if len(p.Config.ExpectedDigests) == 0 {
		return fault.InvalidField(at+"config.expectedDigests", "say which digest each service must have; `stella deploy` reads them from the lock file")
	}
	for service, digest := range p.Config.ExpectedDigests {
		if !digestPattern.MatchString(digest) {
			return fault.InvalidField(at+"config.expectedDigests", "%q of the service %s is no digest: it is sha256: and 64 hexadecimal digits", clip(digest), clip(service))
		}
	}
	return nil
}

func checkHealth(at, kind string, h *api.HealthCheck) error {
	if h == nil {
		return nil
	}
	switch h.Type {
	case "http":
		if !strings.HasPrefix(h.URL, "http://") && !strings.HasPrefix(h.URL, "https://") {
			return fault.InvalidField(at+".url", "an http check needs a URL that begins with http:// or https://")
		}
	case "tcp":
		if !strings.Contains(h.Address, ":") {
			return fault.InvalidField(at+".address", "a tcp check needs host:port")
		}
	case "command":
		if len(h.Command) == 0 {
			return fault.InvalidField(at+".command", "a command check needs a program to run")
		}
	case "docker":
		if kind != "docker" && kind != "compose" {
			return fault.InvalidField(at+".type", "only docker and compose targets have images with a HEALTHCHECK")
		}
	default:
		return fault.InvalidField(at+".type", "%q is no health check: use http, tcp, command or docker", clip(h.Type))
	}
	return nil
}

// checkArtifacts checks names and content, and fills in the digest of content
// that came along.
func checkArtifacts(at string, list []api.ArtifactReference, types ...string) error {
	seen := map[string]bool{}
	for i := range list {
		a, here := &list[i], fmt.Sprintf("%s[%d]", at, i)
		clean := path.Clean(a.Name)
		if a.Name == "" || clean != a.Name || path.IsAbs(a.Name) || clean == "." || clean == ".." || strings.HasPrefix(clean, "../") || strings.ContainsAny(a.Name, "\\\x00") {
			return fault.InvalidField(here+".name", "%q is no usable name: give a plain relative path", clip(a.Name))
		}
		if seen[a.Name] {
			return fault.InvalidField(here+".name", "%q is there twice", clip(a.Name))
		}
		seen[a.Name] = true
		if a.Type != "" && !slices.Contains(types, a.Type) {
			return fault.InvalidField(here+".type", "an artifact of type %q does not fit here: use one of %s", clip(a.Type), strings.Join(types, ", "))
		}
		if a.Mode != "" && !modePattern.MatchString(a.Mode) {
			return fault.InvalidField(here+".mode", "%q are no permissions: give them in octal, as in 0644", clip(a.Mode))
		}
		if a.URL != "" {
			if len(a.Content) > 0 {
				return fault.InvalidField(here+".url", "give either a url or the content")
			}
			if digest, ok := strings.CutPrefix(a.URL, api.ArtifactScheme); ok {
				if !digestPattern.MatchString(digest) || a.Digest != "" && a.Digest != digest {
					return fault.InvalidField(here+".url", "what was pushed to Stella is named by its digest, as in artifact://sha256:…")
				}
				a.Digest = digest
				continue
			}
			if !strings.HasPrefix(a.URL, "http://") && !strings.HasPrefix(a.URL, "https://") {
				return fault.InvalidField(here+".url", "it must begin with http://, https:// or artifact://")
			}
			if !digestPattern.MatchString(a.Digest) {
				return fault.InvalidField(here+".digest", "content from a url needs its digest, as in sha256:…")
			}
			continue
		}
		sum := sha256.Sum256(a.Content)
		have := "sha256:" + hex.EncodeToString(sum[:])
		if a.Digest != "" && a.Digest != have {
			return fault.InvalidField(here+".digest", "the content's digest is %s", have)
		}
		a.Digest = have
	}
	return nil
}

func (p *rollbackPayload) validate(*target.Target) error {
	if p.Deploy != nil {
		return fault.InvalidField("body.payload.deploy", "the server fills this in")
	}
	if p.TargetDigest != "" && !digestPattern.MatchString(p.TargetDigest) {
		return fault.InvalidField("body.payload.targetDigest", "%q is no digest", clip(p.TargetDigest))
	}
	if p.ReleaseID != "" && !releasePattern.MatchString(p.ReleaseID) {
		return fault.InvalidField("body.payload.releaseId", "%q is no release id", clip(p.ReleaseID))
	}
	return nil
}

func (p *healthPayload) validate(tgt *target.Target) error {
	if p.HealthCheck == nil && tgt.Kind != "docker" && tgt.Kind != "compose" {
		return fault.InvalidField("body.payload.healthCheck", "say what to check")
	}
	return checkHealth("body.payload.healthCheck", tgt.Kind, p.HealthCheck)
}

func (p *commandPayload) validate(*target.Target) error {
	if len(p.Command) == 0 || p.Command[0] == "" {
		return fault.InvalidField("body.payload.command", "say which program to run")
	}
	return nil
}

func (p *uploadPayload) validate(*target.Target) error {
	if len(p.Files) == 0 {
		return fault.InvalidField("body.payload.files", "say which files to put there")
	}
	return checkArtifacts("body.payload.files", p.Files, "file")
}

func (p *stickerPayload) validate(*target.Target) error {
	if p.Sticker.ReleaseID == "" {
		return fault.InvalidField("body.payload.sticker.releaseId", "a sticker names a release")
	}
	return nil
}

// What people may see: names of variables without their values, and files
// without their content.

func (p *deployPayload) public() any {
	return publicDeploy(p.DeployPayload)
}

func publicDeploy(v api.DeployPayload) api.DeployPayload {
	v.Config.Environment = maskValues(v.Config.Environment)
	v.Artifacts = withoutContent(v.Artifacts)
	for _, h := range []**api.Hook{&v.Hooks.PreDeploy, &v.Hooks.PostDeploy} {
		if *h != nil {
			c := **h
			c.Environment = maskValues(c.Environment)
			*h = &c
		}
	}
	return v
}

func (p *rollbackPayload) public() any {
	v := p.RollbackPayload
	if v.Deploy != nil {
		d := publicDeploy(*v.Deploy)
		v.Deploy = &d
	}
	return v
}

func (p *healthPayload) public() any  { return p.HealthCheckPayload }
func (p *inspectPayload) public() any { return p.InspectPayload }
func (p *stickerPayload) public() any { return p.StickerPayload }

func (p *commandPayload) public() any {
	v := p.CommandPayload
	v.Environment = maskValues(v.Environment)
	return v
}

func (p *uploadPayload) public() any {
	v := p.UploadPayload
	v.Files = withoutContent(v.Files)
	return v
}

func maskValues(in map[string]string) map[string]string {
	out := maps.Clone(in)
	for k, v := range out {
		if !strings.HasPrefix(v, api.SecretScheme) { // a secret's name is none
			out[k] = masked
		}
	}
	return out
}

func withoutContent(in []api.ArtifactReference) []api.ArtifactReference {
	out := make([]api.ArtifactReference, len(in))
	for i, a := range in {
		a.Content = nil
		out[i] = a
	}
	return out
}

func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
