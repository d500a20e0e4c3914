// Package packaging is what is installed on hosts beside the programs.
package packaging
