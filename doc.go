// Package stella is the root of the repository; it holds nothing but the tests
// of the repository's own rules. Begin with ARCHITECTURE.md.
package stella
