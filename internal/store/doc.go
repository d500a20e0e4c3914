// Package store keeps all that Stella knows in a database: SQLite for one
// server, PostgreSQL for several. It implements the store interfaces that the
// nouns declare, once for both engines.
//
// The parts:
//
//   - internal/db is the SQL, in .sql files that sqlc has typed. It is written
//     once; an engine's own file holds only the statements that it cannot
//     take as they are, with the same parameters and columns.
//   - internal/column has the types of columns whose form differs: times are
//     microseconds in UTC and the zero time is NULL, JSON is text or JSONB.
//   - An [Engine] is what else differs. The packages sqlite and postgres have
//     one each, with its driver and its migrations, and open a [Store].
//   - list.go makes all lists: it adds the filter, the order and the page to a
//     query of internal/db. conditions.go compiles a filter, and listings.go
//     says which column has which field.
//   - storetest is one suite for all engines.
//
// Every method is one transaction, made of helpers that take its queries.
// What a caller may tell its client is a fault; a database that is gone, full
// or locked is a fault of kind Unavailable whose cause is for the log.
//
// The package knows no driver, no HTTP, and none of the nouns' rules beyond
// those that only a transaction can hold: a token is spent once, changes of a
// target do not overlap, an agent holds no more tasks than it may, and a
// report of an attempt that is over changes nothing.
package store
