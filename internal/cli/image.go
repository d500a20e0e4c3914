package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/spf13/pflag"

	"stella-ops.org/stella/api"
)

// imageFlags say which image, and how to log in to its registry.
type imageFlags struct {
	image, user   string
	passwordStdin bool
	secret        string
}

func (f *imageFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&f.image, "image", "", "docker: the `image`, as in repository:tag or repository@sha256:…")
	f.addLogin(flags)
}

func (f *imageFlags) addLogin(flags *pflag.FlagSet) {
	flags.StringVar(&f.user, "registry-user", "", "docker, compose: the `user` to log in to the registry as")
	flags.BoolVar(&f.passwordStdin, "registry-password-stdin", false, "docker, compose: read that user's password from stdin")
	flags.StringVar(&f.secret, "registry-password", "", "docker, compose: or the `secret` that holds it, as in secret://name; a tag is then looked up with your own docker login")
}

// lookUpTimeout is how long a registry may take to say what a tag is.
const lookUpTimeout = 30 * time.Second

var digestPattern = regexp.MustCompile(`^sha256:[a-f0-9]{64}$`)

// splitImage takes a reference apart; the repository stays as it was written,
// for that is how the engine will name it. Without tag and digest, the tag is
// latest, as everywhere.
func splitImage(ref string) (image, digest, tag string, err error) {
	image, digest, hasDigest := strings.Cut(ref, "@")
	if i := strings.LastIndexByte(image, ':'); i > strings.LastIndexByte(image, '/') {
		image, tag = image[:i], image[i+1:]
	}
	if hasDigest && !digestPattern.MatchString(digest) {
		return "", "", "", wrongUse("it is sha256: and 64 hexadecimal digits", "%q is no digest", digest)
	}
	if tag == "" && !hasDigest {
		tag = "latest"
	}
	check := image
	if tag != "" {
		check += ":" + tag
	}
	if _, err := name.ParseReference(check); err != nil {
		return "", "", "", wrongUse("write it as in --image registry.example.com/team/app:1.4.2", "%q is no image: %v", ref, err)
	}
	return image, digest, tag, nil
}

// registryOf is the registry that an image is in; that of Docker when it says
// none.
func registryOf(image string) string {
	ref, err := name.ParseReference(image)
	if err != nil {
		return ""
	}
	return ref.Context().RegistryStr()
}

// registryLogin is what the flags say; nil when they say nothing.
func (a *app) registryLogin(f *imageFlags) (*api.RegistryAuth, error) {
	if f.secret != "" && (f.passwordStdin || !strings.HasPrefix(f.secret, api.SecretScheme)) {
		return nil, wrongUse("give it by --registry-password-stdin, or keep it with `stella secret set` and give secret://name",
			"--registry-password takes a secret's name, and never the password itself, which others of this machine could see")
	}
	if f.user == "" && !f.passwordStdin && f.secret == "" {
		return nil, nil //nolint:nilnil // no login is none
	}
	if f.user == "" {
		return nil, wrongUse("give --registry-user too", "a password needs a user")
	}
	login := &api.RegistryAuth{Username: f.user}
	var err error
	switch {
	case f.secret != "":
		login.Password = f.secret
	case f.passwordStdin:
		login.Password, err = a.io.ReadLine()
	case a.io.InTTY:
		login.Password, err = a.io.ReadSecret("Password of " + f.user + ": ")
	default:
		return nil, wrongUse("give it by --registry-password-stdin", "the registry's user needs a password")
	}
	if err != nil {
		return nil, fmt.Errorf("read the registry's password: %w", err)
	}
	if login.Password == "" {
		return nil, wrongUse("write the password to stdin, on one line", "the registry's password is empty")
	}
	return login, nil
}

// lookUpDigest asks the registry what a tag is now. Registries on this machine
// may do without TLS; all others may not. Without a login of its own it uses
// those of docker login.
func (a *app) lookUpDigest(ctx context.Context, image string, login *api.RegistryAuth) (string, error) {
	ref, err := name.NewTag(image)
	if err != nil {
		return "", wrongUse("", "%q is no image: %v", image, err)
	}
	ctx, cancel := context.WithTimeout(ctx, lookUpTimeout)
	defer cancel()
	options := []remote.Option{
		remote.WithContext(ctx), remote.WithUserAgent("stella/" + a.version), remote.WithAuthFromKeychain(authn.DefaultKeychain),
	}
	if login != nil && !strings.HasPrefix(login.Password, api.SecretScheme) {
		options[2] = remote.WithAuth(&authn.Basic{Username: login.Username, Password: login.Password})
	}
	head, headErr := remote.Head(ref, options...)
	if headErr == nil {
		return head.Digest.String(), nil
	}
	// Some registries answer HEAD without the digest, or not at all; and only
	// the answer to GET says what is wrong.
	full, err := remote.Get(ref, options...)
	if err == nil {
		return full.Digest.String(), nil
	}
	return "", explainRegistry(image, ref.RegistryStr(), err)
}

func explainRegistry(image, registry string, err error) error {
	const otherwise = "; an image that you know the digest of needs no look: --image repository@sha256:…"
	if answer, ok := errors.AsType[*transport.Error](err); ok {
		switch answer.StatusCode {
		case http.StatusUnauthorized, http.StatusForbidden:
			return &Error{
				Code: exitNotAllowed, Err: err,
				What: fmt.Sprintf("the registry %s does not let %s be seen: it is private, or not there", registry, image),
				Next: "log in by --registry-user and --registry-password-stdin",
			}
		case http.StatusNotFound:
			return &Error{
				Code: exitNotFound, Err: err,
				What: fmt.Sprintf("the registry %s has no %s", registry, image),
				Next: "check the repository and the tag",
			}
		}
	}
	if errors.Is(err, context.Canceled) {
		return err
	}
	return &Error{
		Code: exitUnavailable, Err: err,
		What: fmt.Sprintf("the registry %s could not be asked what %s is: %s", registry, image, oneLine(err.Error())),
		Next: "check the address and the network" + otherwise,
	}
}
