// Package privatedir makes folders for what nobody else may read. Where files
// have modes (POSIX), a folder's is 0700. Windows has none: there a file is as
// private as the access list that it inherits, so the folder gets one that lets
// in the system, the administrators, and whoever made it if he is neither.
//
// It knows nothing of what is put into the folders.
package privatedir
