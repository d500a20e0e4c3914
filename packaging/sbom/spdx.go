package main

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// The part of SPDX 2.3 (https://spdx.github.io/spdx-spec/v2.3/) that is written
// here.
type (
	document struct {
		SPDXVersion       string         `json:"spdxVersion"`
		DataLicense       string         `json:"dataLicense"`
		SPDXID            string         `json:"SPDXID"`
		Name              string         `json:"name"`
		DocumentNamespace string         `json:"documentNamespace"`
		CreationInfo      creationInfo   `json:"creationInfo"`
		DocumentDescribes []string       `json:"documentDescribes"`
		Packages          []spdxPackage  `json:"packages"`
		Relationships     []relationship `json:"relationships"`
	}
	creationInfo struct {
		Created  string   `json:"created"`
		Creators []string `json:"creators"`
	}
	spdxPackage struct {
		SPDXID                string        `json:"SPDXID"`
		Name                  string        `json:"name"`
		VersionInfo           string        `json:"versionInfo"`
		PackageFileName       string        `json:"packageFileName,omitempty"`
		PrimaryPackagePurpose string        `json:"primaryPackagePurpose"`
		Supplier              string        `json:"supplier"`
		DownloadLocation      string        `json:"downloadLocation"`
		FilesAnalyzed         bool          `json:"filesAnalyzed"`
		Checksums             []checksum    `json:"checksums,omitempty"`
		LicenseConcluded      string        `json:"licenseConcluded"`
		LicenseDeclared       string        `json:"licenseDeclared"`
		CopyrightText         string        `json:"copyrightText"`
		ExternalRefs          []externalRef `json:"externalRefs"`
	}
	checksum struct {
		Algorithm string `json:"algorithm"`
		Value     string `json:"checksumValue"`
	}
	externalRef struct {
		Category string `json:"referenceCategory"`
		Type     string `json:"referenceType"`
		Locator  string `json:"referenceLocator"`
	}
	relationship struct {
		Element string `json:"spdxElementId"`
		Type    string `json:"relationshipType"`
		Related string `json:"relatedSpdxElement"`
	}
)

const (
	ours   = "pkg:golang/stella-ops.org/stella"
	unsaid = "NOASSERTION"
)

// describe makes the document of a program. The same binaries make the same
// document.
func describe(program, version string, at time.Time, binaries []binary, known []licence) document {
	doc := document{
		SPDXVersion: "SPDX-2.3", DataLicense: "CC0-1.0", SPDXID: "SPDXRef-DOCUMENT", Name: program + "-" + version,
		CreationInfo: creationInfo{
			Created:  at.Format(time.RFC3339),
			Creators: []string{"Organization: Stella", "Tool: stella-sbom"},
		},
	}
	relate := func(from, kind, to string) {
		doc.Relationships = append(doc.Relationships, relationship{from, kind, to})
	}
	// A name of the document that no other one has: by what it describes.
	all := sha256.New()
	toolchains := map[string]bool{}
	for _, b := range binaries {
		fmt.Fprintln(all, b.file, b.sha256)
		id := spdxID("Binary", b.file)
		doc.DocumentDescribes = append(doc.DocumentDescribes, id)
		doc.Packages = append(doc.Packages, spdxPackage{
			SPDXID: id, Name: program, VersionInfo: version, PackageFileName: b.file, PrimaryPackagePurpose: "APPLICATION",
			Supplier: "Organization: Stella", DownloadLocation: unsaid, Checksums: []checksum{{"SHA256", b.sha256}},
			LicenseConcluded: "Apache-2.0", LicenseDeclared: "Apache-2.0", CopyrightText: unsaid,
			ExternalRefs: []externalRef{{"PACKAGE-MANAGER", "purl", purl(ours, version) + "#cmd/" + program}},
		})
		relate(doc.SPDXID, "DESCRIBES", id)
		for _, m := range b.modules {
			relate(id, "STATIC_LINK", spdxID("Module", m.String()))
		}
		toolchain := spdxID("Go", b.goVersion)
		relate(id, "STATIC_LINK", toolchain)
		relate(toolchain, "BUILD_TOOL_OF", id)
		if !toolchains[toolchain] {
			toolchains[toolchain] = true
			doc.Packages = append(doc.Packages, goToolchain(toolchain, strings.TrimPrefix(b.goVersion, "go")))
		}
	}
	doc.DocumentNamespace = fmt.Sprintf("https://stella-ops.org/spdx/%s-%s-%s", program, version, hex.EncodeToString(all.Sum(nil)))
	for _, l := range known {
		doc.Packages = append(doc.Packages, library(l))
	}
	return doc
}

func goToolchain(id, version string) spdxPackage {
	return spdxPackage{
		SPDXID: id, Name: "Go toolchain and standard library", VersionInfo: version, PrimaryPackagePurpose: "LIBRARY",
		Supplier: "Organization: The Go Authors", DownloadLocation: "https://go.dev/dl/",
		LicenseConcluded: goLicence, LicenseDeclared: goLicence, CopyrightText: unsaid,
		ExternalRefs: []externalRef{{"PACKAGE-MANAGER", "purl", purl("pkg:golang/stdlib", version)}},
	}
}

// library describes a module. What go.sum has of it is no checksum of a file,
// and so no checksum of SPDX's; it is a reference of our own kind.
func library(l licence) spdxPackage {
	declared := cmp.Or(l.expression, unsaid)
	return spdxPackage{
		SPDXID: spdxID("Module", l.module.String()), Name: l.module.path, VersionInfo: l.module.version,
		PrimaryPackagePurpose: "LIBRARY", Supplier: unsaid, DownloadLocation: unsaid,
		LicenseConcluded: unsaid, LicenseDeclared: declared, CopyrightText: unsaid,
		ExternalRefs: []externalRef{
			{"PACKAGE-MANAGER", "purl", purl("pkg:golang/"+strings.ToLower(l.module.path), l.module.version)},
			{"OTHER", "go.sum", l.module.sum},
		},
	}
}

// purl names a version of a package; the version's + would be read as a space.
func purl(name, version string) string { return name + "@" + strings.ReplaceAll(version, "+", "%2B") }

var notInIDs = regexp.MustCompile(`[^a-zA-Z0-9.]+`)

// spdxID makes an identifier of letters, digits, dots and dashes. Where a name
// has others, a part of its hash keeps it apart from those that differ in them
// alone.
func spdxID(kind, name string) string {
	id := "SPDXRef-" + kind + "-" + notInIDs.ReplaceAllString(name, "-")
	sum := sha256.Sum256([]byte(name))
	return id + "-" + hex.EncodeToString(sum[:4])
}
