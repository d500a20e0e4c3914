package seal_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"stella-ops.org/stella/internal/seal"
)

func TestMasker(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name       string
		secrets    []string
		text, want string
	}{
		{"none", nil, "anything", "anything"},
		{"one", []string{"hunter22"}, "the password is hunter22, hunter22!", "the password is ***, ***!"},
		{"short ones stay", []string{"1", "abc", ""}, "DEBUG=1 abc", "DEBUG=1 abc"},
		{"the shortest", []string{"abcd"}, "xabcdx", "x***x"},
		{"one begins another", []string{"secret", "secret-and-more"}, "secret-and-more secret", "*** ***"},
		{"one within another", []string{"cret", "secrets"}, "secrets", "***"},
		{"the same twice", []string{"secret", "other1", "secret"}, "secret", "***"},
		{"lines of a key", []string{"-----BEGIN KEY-----\nAAAABBBB\r\nxy\n-----END KEY-----\n"}, "found AAAABBBB in the file, and xy", "found *** in the file, and xy"},
		{"a key in one piece", []string{"line one\nline two"}, "a line one\nline two z", "a *** z"},
		{"text that looks like the mask", []string{"se***cret"}, "se***cret", "***"},
	} {
		if got := seal.NewMasker(c.secrets...).Mask(c.text); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	var zero seal.Masker
	if got := zero.Mask("text"); got != "text" {
		t.Errorf("the zero value makes %q", got)
	}
}

// No secret of useful length is left, wherever it stands.
func TestMaskerLeavesNoSecret(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		secrets := rapid.SliceOfN(rapid.StringMatching(`[a-z0-9]{4,12}`), 1, 5).Draw(t, "secrets")
		var text strings.Builder
		for range rapid.IntRange(1, 10).Draw(t, "words") {
			text.WriteString(rapid.StringMatching(`[A-Z =]{0,5}`).Draw(t, "between"))
			text.WriteString(rapid.SampledFrom(secrets).Draw(t, "secret"))
			text.WriteByte(' ')
		}
		masked := seal.NewMasker(secrets...).Mask(text.String())
		for _, s := range secrets {
			if strings.Contains(masked, s) {
				t.Fatalf("%q is left in %q", s, masked)
			}
		}
	})
}
