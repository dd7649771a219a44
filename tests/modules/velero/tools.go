//go:build tools

// Package tools names Velero's server and command line, which are one program.
package tools

import _ "github.com/vmware-tanzu/velero/cmd/velero"
