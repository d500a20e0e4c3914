package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/google/licensecheck"
)

// goLicence is the Go toolchain's, whose runtime and library are in every binary.
const goLicence = "BSD-3-Clause"

// licence is what a module says about its use: an SPDX expression, empty when
// the texts are not recognised, and the texts.
type licence struct {
	module     module
	expression string
	texts      []string
}

// Files at a module's root: granting hold its licence, and adding go with it.
var (
	granting = regexp.MustCompile(`(?i)^((un)?licen[cs]e|copying)([-.].*)?$`)
	adding   = regexp.MustCompile(`(?i)^(notice|patents)([-.].*)?$`)
)

// findLicences reads the licences of modules from the module cache, which has
// them, for the binaries were built from there.
func findLicences(modules []module) ([]licence, error) {
	args := []string{"mod", "download", "-json"}
	for _, m := range modules {
		args = append(args, m.String())
	}
	cmd := exec.Command("go", args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("find the sources of what is linked: %w: %s%s", err, out, stderr.Bytes())
	}
	folders := map[string]string{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var m struct{ Path, Version, Dir string }
		if err := dec.Decode(&m); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("go mod download: %w", err)
		}
		folders[m.Path+"@"+m.Version] = m.Dir
	}
	var all []licence
	for _, m := range modules {
		l, err := readLicence(m, folders[m.String()])
		if err != nil {
			return nil, err
		}
		all = append(all, l)
	}
	return all, nil
}

func readLicence(m module, folder string) (licence, error) {
	l := licence{module: m}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return l, fmt.Errorf("the licence of %s: %w", m, err)
	}
	var ids []string
	granted := false
	for _, e := range entries {
		// Some name their code, too, after what it is about.
		grants := granting.MatchString(e.Name())
		if !e.Type().IsRegular() || !grants && !adding.MatchString(e.Name()) || filepath.Ext(e.Name()) == ".go" {
			continue
		}
		text, err := os.ReadFile(filepath.Join(folder, e.Name()))
		if err != nil {
			return l, fmt.Errorf("the licence of %s: %w", m, err)
		}
		l.texts = append(l.texts, strings.TrimSpace(strings.ReplaceAll(string(text), "\r\n", "\n")))
		if grants {
			granted = true
			ids = append(ids, recognise(text)...)
		}
	}
	if !granted {
		return l, fmt.Errorf("%s has no licence at its root: find out whether it may be used before it is built in", m)
	}
	slices.Sort(ids)
	l.expression = strings.Join(slices.Compact(ids), " AND ")
	return l, nil
}

// recognise returns the SPDX ids of the licences in a text. A text that is
// something else for the greater part has none: nobody is told what is guessed.
func recognise(text []byte) []string {
	found := licensecheck.Scan(text)
	if found.Percent < 75 {
		return nil
	}
	var ids []string
	for _, m := range found.Match {
		if !m.IsURL {
			ids = append(ids, m.ID)
		}
	}
	return ids
}

// texts is one file with all licences, those of many modules once.
func texts(program string, all []licence) ([]byte, error) {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return nil, fmt.Errorf("where the Go toolchain is: %w", err)
	}
	golang, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(root)), "LICENSE"))
	if err != nil {
		return nil, fmt.Errorf("the licence of the Go toolchain: %w", err)
	}
	var out strings.Builder
	fmt.Fprintf(&out, "%s is under the Apache License 2.0. It contains the software below, under the licences below.\n", program)
	users := map[string][]string{}
	var order []string
	add := func(user, text string) {
		if users[text] == nil {
			order = append(order, text)
		}
		users[text] = append(users[text], user)
	}
	add("the Go standard library", strings.TrimSpace(string(golang)))
	for _, l := range all {
		for _, text := range l.texts {
			add(l.module.String(), text)
		}
	}
	for _, text := range order {
		fmt.Fprintf(&out, "\n%s\n%s\n\n%s\n", strings.Repeat("-", 80), strings.Join(users[text], "\n"), text)
	}
	return []byte(out.String()), nil
}
