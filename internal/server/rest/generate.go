package rest

// First what the types say of themselves, for the document has it in it.
//go:generate go run ./typedocs ../../../api typedocs_gen.go
//go:generate go run ./openapigen ../../../api/openapi.yaml
