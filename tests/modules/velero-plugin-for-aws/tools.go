//go:build tools

// Package tools names Velero's plugin for S3. It does not go together with Velero's own module.
package tools

import _ "github.com/vmware-tanzu/velero-plugin-for-aws/velero-plugin-for-aws"
