//go:build tools

// Package tools names the command that the tests' stand-in for Google Cloud Storage is built from.
package tools

import _ "github.com/fsouza/fake-gcs-server"
