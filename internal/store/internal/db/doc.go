// Package db is the SQL of the store, typed: sqlc writes its Go from the files
// in queries. It is written for PostgreSQL in such a way that SQLite takes
// nearly all of it as it is.
package db

//go:generate go tool -modfile=../../../../tools/go.mod sqlc generate
