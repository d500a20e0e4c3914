package cli

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSplitWords(t *testing.T) {
	t.Parallel()
	for line, want := range map[string][]string{
		"a b  c":                {"a", "b", "c"},
		`sh -c 'echo "x y" $1'`: {"sh", "-c", `echo "x y" $1`},
		`a "b \"c\" d"`:         {"a", `b "c" d`},
		`a\ b ''`:               {"a b", ""},
		`'a\b'`:                 {`a\b`},
		"":                      nil,
		"  ":                    nil,
		`a "b`:                  nil,
		`a \`:                   nil,
	} {
		have, err := splitWords(line)
		if (err != nil) != (want == nil) {
			t.Errorf("%q: %v", line, err)
		}
		if diff := cmp.Diff(want, have); diff != "" {
			t.Errorf("%q: %s", line, diff)
		}
	}
}

func TestByteSize(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{
		"1048576": 1 << 20, "512m": 512 << 20, "512M": 512 << 20, "512MB": 512 << 20, "512MiB": 512 << 20,
		"1.5g": 3 << 29, "64k": 64 << 10, "100b": 100, "": 0, "m": 0, "-1m": 0, "1x": 0, "99999999999t": 0,
	} {
		var b byteSize
		if err := b.Set(text); (err != nil) != (want == 0) || b.value != want {
			t.Errorf("%q: %d, %v; want %d", text, b.value, err, want)
		}
	}
}

func TestSplitImage(t *testing.T) {
	t.Parallel()
	for ref, want := range map[string][3]string{
		"nginx":                      {"nginx", "", "latest"},
		"nginx:1.27":                 {"nginx", "", "1.27"},
		"localhost:5000/a":           {"localhost:5000/a", "", "latest"},
		"localhost:5000/a:b":         {"localhost:5000/a", "", "b"},
		"nginx@" + digest:            {"nginx", digest, ""},
		"localhost:5000/a@" + digest: {"localhost:5000/a", digest, ""},
		"nginx:1.27@" + digest:       {"nginx", digest, "1.27"},
	} {
		image, d, tag, err := splitImage(ref)
		if err != nil {
			t.Errorf("%q: %v", ref, err)
		}
		if diff := cmp.Diff(want, [3]string{image, d, tag}); diff != "" {
			t.Errorf("%q: %s", ref, diff)
		}
	}
	for _, ref := range []string{"", ":tag", "a b", "nginx@sha256:00", "Nginx:1", "nginx:" + "a/b:c d"} {
		if _, _, _, err := splitImage(ref); err == nil {
			t.Errorf("%q was taken", ref)
		}
	}
}

func TestParsePin(t *testing.T) {
	t.Parallel()
	const hexPin = "95045e0e2d8aad353757d9733b25a995fc6780f2bf377e4f872bf95bbfb41a21"
	want, err := parsePin(hexPin)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		"sha256:" + hexPin, " SHA256:" + hexPin + "\n", "95:04:" + hexPin[4:],
		"sucf4drnrkwtkn2x3fztwjnjsx6gpahsx43x4t4hfp4vxp5udiqq", // as a token carries it
	} {
		if have, err := parsePin(text); err != nil || have != want {
			t.Errorf("%q: %x, %v", text, have, err)
		}
	}
	for _, text := range []string{"", "00", hexPin + "00", "zz" + hexPin[2:]} {
		if _, err := parsePin(text); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}

func TestReleaseID(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{"1.4.2": "1.4.2", "a_b-c": "a_b-c", "": "", "first try": "", "-x": "", "ü": ""} {
		if have := releaseID(name); have != want {
			t.Errorf("%q: %q", name, have)
		}
	}
}

func TestCapabilities(t *testing.T) {
	t.Parallel()
	have := capabilities([]string{"docker.deploy", "docker.inspect", "host.deploy", "deep-trace"})
	if want := "docker.*,host.deploy,deep-trace"; have != want {
		t.Errorf("%s, want %s", have, want)
	}
}
