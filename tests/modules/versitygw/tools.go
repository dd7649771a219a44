//go:build tools

// Package tools names the command of the second S3 server of the test cluster.
package tools

import _ "github.com/versity/versitygw/cmd/versitygw"
