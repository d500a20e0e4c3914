package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
)

// bill describes this test's own binary, which is one like all others.
func bill(t *testing.T) (text, licences []byte) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o := options{
		program: "stella-agent", version: "1.2.3+4.gabc", epoch: 1_790_000_000,
		out: filepath.Join(t.TempDir(), "spdx.json"), licences: filepath.Join(t.TempDir(), "licences.txt"),
	}
	if err := run(o, []string{self}); err != nil {
		t.Fatal(err)
	}
	if text, err = os.ReadFile(o.out); err != nil {
		t.Fatal(err)
	}
	if licences, err = os.ReadFile(o.licences); err != nil {
		t.Fatal(err)
	}
	return text, licences
}

func TestBill(t *testing.T) {
	t.Parallel()
	text, licences := bill(t)
	if again, _ := bill(t); !bytes.Equal(text, again) {
		t.Error("the same binary makes two bills")
	}
	var doc document
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&doc); err != nil {
		t.Fatal(err)
	}
	if doc.CreationInfo.Created != "2026-09-21T14:13:20Z" {
		t.Errorf("it was made at %s", doc.CreationInfo.Created)
	}

	// Every element has an id that is one, once, and every relation is between two of them.
	valid := regexp.MustCompile(`^SPDXRef-[a-zA-Z0-9.-]+$`)
	ids := map[string]bool{doc.SPDXID: true}
	purls := map[string]spdxPackage{}
	for _, p := range doc.Packages {
		if !valid.MatchString(p.SPDXID) || ids[p.SPDXID] {
			t.Errorf("the id %s is none, or is there twice", p.SPDXID)
		}
		ids[p.SPDXID] = true
		purls[p.ExternalRefs[0].Locator] = p
	}
	linked := map[string]bool{}
	for _, r := range doc.Relationships {
		if !ids[r.Element] || !ids[r.Related] {
			t.Errorf("%+v is about what is not there", r)
		}
		if r.Type == "STATIC_LINK" && r.Element == doc.DocumentDescribes[0] {
			linked[r.Related] = true
		}
	}

	// What Go says of this process is in the bill, and linked; with a licence and what go.sum has.
	info, ok := debug.ReadBuildInfo()
	if !ok || len(info.Deps) == 0 {
		t.Fatal("this test does not know what it is made of")
	}
	for _, dep := range info.Deps {
		p, ok := purls["pkg:golang/"+strings.ToLower(dep.Path)+"@"+strings.ReplaceAll(dep.Version, "+", "%2B")]
		if !ok || !linked[p.SPDXID] {
			t.Errorf("%s is not in the bill", dep.Path)
			continue
		}
		if p.VersionInfo != dep.Version || p.LicenseDeclared == unsaid || !slices.Contains(p.ExternalRefs, externalRef{"OTHER", "go.sum", dep.Sum}) {
			t.Errorf("%s is in the bill as %+v", dep.Path, p)
		}
		if !bytes.Contains(licences, []byte("\n"+dep.Path+"@"+dep.Version+"\n")) {
			t.Errorf("the licence of %s does not go with it", dep.Path)
		}
	}
	if p := purls["pkg:golang/stdlib@"+strings.TrimPrefix(info.GoVersion, "go")]; !linked[p.SPDXID] {
		t.Error("the Go toolchain is not in the bill")
	}
	if p := purls["pkg:golang/stella-ops.org/stella@1.2.3%2B4.gabc#cmd/stella-agent"]; len(p.Checksums) != 1 {
		t.Errorf("the program is in the bill as %+v", p)
	}
}

func TestBillOfSomethingElse(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	o := options{program: "script", version: "1", epoch: 1, out: filepath.Join(t.TempDir(), "out")}
	if err := run(o, []string{file}); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("a script has a bill: %v", err)
	}
	if _, err := os.Stat(o.out); err == nil {
		t.Error("it is written")
	}
}

func TestRecognise(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../LICENSE")
	if err != nil {
		t.Fatal(err)
	}
	if got := recognise(text); !slices.Equal(got, []string{"Apache-2.0"}) {
		t.Errorf("our own licence is %v", got)
	}
	for _, unknown := range []string{"", "All rights reserved.", "This is not under the MIT License (https://opensource.org/licenses/MIT), but under ours: " + strings.Repeat("pay us well. ", 50)} {
		if got := recognise([]byte(unknown)); len(got) != 0 {
			t.Errorf("%.40q is %v", unknown, got)
		}
	}
}
