//go:build tools

// Package tools names the command that the API server of the tests is built from. What go.mod pins serves the other
// parts of a cluster too.
package tools

import _ "k8s.io/kubernetes/cmd/kube-apiserver"
