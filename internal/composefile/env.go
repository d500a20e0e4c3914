package composefile

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/dotenv"
	"github.com/compose-spec/compose-go/v2/template"
)

var variable = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]*$`)

// Variable says whether a name can be that of a variable in an env file.
func Variable(name string) bool { return variable.MatchString(name) }

// EnvFile writes variables as docker compose reads them back from an env file,
// whatever is in their values.
func EnvFile(env map[string]string) []byte {
	escape := strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `\$`, "\r", `\r`)
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(env)) {
		fmt.Fprintf(&b, "%s=\"%s\"\n", name, escape.Replace(env[name]))
	}
	return []byte(b.String())
}

var lineOf = regexp.MustCompile(`^line \d+`)

// ReadEnv reads an env file as docker compose does; set are the variables that
// are there already, which its values may name. Its error has nothing of the
// file's content in it, for that may be secret.
func ReadEnv(data []byte, set func(name string) (string, bool)) (map[string]string, error) {
	env, err := dotenv.ParseWithLookup(strings.NewReader(string(data)), set)
	if err != nil {
		where := lineOf.FindString(err.Error())
		if where == "" {
			where = "somewhere"
		}
		return nil, errors.New(where + " it is not NAME=value; quote a value that has spaces, quotes or more lines")
	}
	return env, nil
}

// Resolve puts the values of variables into an image's name, as in
// nginx:${TAG:-1.27}.
func Resolve(image string, value func(name string) (string, bool)) (string, error) {
	resolved, err := template.SubstituteWithOptions(image, value, template.WithoutLogging)
	if err != nil {
		return "", fmt.Errorf("the variables of %q: %w", image, err)
	}
	return resolved, nil
}
