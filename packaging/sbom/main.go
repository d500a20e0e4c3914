// Command sbom writes a software bill of materials for one program, in SPDX 2.3
// as JSON: what is really linked into its binaries for all platforms, as the
// binaries themselves say it. With -licences it writes the texts of the licences
// of all that is linked, which have to go with the binaries.
//
// It is part of the build (scripts/packages), and of no program.
package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"
)

func main() {
	o := options{}
	flag.StringVar(&o.program, "program", "", "the program's name")
	flag.StringVar(&o.version, "version", "", "its version")
	flag.Int64Var(&o.epoch, "epoch", 0, "the source's time, in seconds since 1970 (SOURCE_DATE_EPOCH)")
	flag.StringVar(&o.out, "out", "", "the document to write")
	flag.StringVar(&o.licences, "licences", "", "the text file to write the licences to")
	flag.Parse()
	if err := run(o, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

type options struct {
	program, version, out, licences string
	epoch                           int64
}

func run(o options, files []string) error {
	if o.program == "" || o.version == "" || o.epoch == 0 || len(files) == 0 || cmp.Or(o.out, o.licences) == "" {
		return errors.New("give -program, -version, -epoch, one or both of -out and -licences, and the binaries")
	}
	var binaries []binary
	for _, file := range files {
		b, err := readBinary(file)
		if err != nil {
			return err
		}
		binaries = append(binaries, b)
	}
	known, err := findLicences(linked(binaries))
	if err != nil {
		return err
	}
	if o.licences != "" {
		all, err := texts(o.program, known)
		if err != nil {
			return err
		}
		if err := os.WriteFile(o.licences, all, 0o644); err != nil { //nolint:gosec // for everybody to read
			return err
		}
	}
	if o.out == "" {
		return nil
	}
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(describe(o.program, o.version, time.Unix(o.epoch, 0).UTC(), binaries, known)); err != nil {
		return err
	}
	return os.WriteFile(o.out, text.Bytes(), 0o644) //nolint:gosec // for everybody to read
}
