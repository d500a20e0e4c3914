package main

import (
	"cmp"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// binary is one file that was built, and what it says about itself.
type binary struct {
	file, sha256 string
	goVersion    string // as in go1.26.8
	modules      []module
}

// module is a version of a Go module. Sum is what go.sum has of it.
type module struct{ path, version, sum string }

// String is the module as the go command writes it.
func (m module) String() string { return m.path + "@" + m.version }

func readBinary(file string) (binary, error) {
	info, err := buildinfo.ReadFile(file)
	if err != nil {
		return binary{}, fmt.Errorf("what %s is made of: %w", file, err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return binary{}, err
	}
	sum := sha256.Sum256(data)
	b := binary{file: filepath.Base(file), sha256: hex.EncodeToString(sum[:]), goVersion: info.GoVersion}
	for _, dep := range info.Deps {
		if dep.Replace != nil {
			dep = dep.Replace
		}
		if dep.Sum == "" {
			return binary{}, fmt.Errorf("%s is made with %s of an unknown origin: only released modules can be named", file, dep.Path)
		}
		b.modules = append(b.modules, module{dep.Path, dep.Version, dep.Sum})
	}
	return b, nil
}

// linked are the modules of all binaries, each once, in order.
func linked(binaries []binary) []module {
	all := map[module]bool{}
	for _, b := range binaries {
		for _, m := range b.modules {
			all[m] = true
		}
	}
	return slices.SortedFunc(maps.Keys(all), func(a, b module) int { return cmp.Compare(a.String(), b.String()) })
}
