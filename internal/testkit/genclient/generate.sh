#!/usr/bin/env bash
# Makes client.gen.go out of the API's document, by a generator that is not ours: what it makes has to
# compile, and to work. It reads OpenAPI 3.0, so the document goes to it in that form.
set -euo pipefail
document=$(mktemp --suffix .yaml)
trap 'rm -f "$document"' EXIT
(cd ../../.. && go run ./internal/server/rest/openapigen -3.0 "$document")
go tool oapi-codegen -config config.yaml "$document" 2> >(grep -v '^WARNING: You are using an OpenAPI 3.1' >&2)
