// The etcd server of the test cluster: the module has no command of its own that `go build` could name.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
