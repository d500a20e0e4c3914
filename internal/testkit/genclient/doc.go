// Package genclient is a Go client that a foreign generator has made out of the
// API's document, and package calls in it a program that makes every call with
// it. Nobody uses it: it proves that the document is true, and that clients can
// be made from it. A module of its own, for what it needs no program does.
package genclient

//go:generate ./generate.sh
