// A net/http server or client: `go_http serve tcp 127.0.0.1:PORT [CERTIFICATE KEY]`, `go_http serve unix PATH`,
// `go_http call PLAN`.
package main

import (
	"fmt"
	"os"
)

func main() {
	var err error
	switch {
	case (len(os.Args) == 4 || len(os.Args) == 6) && os.Args[1] == "serve":
		err = serve(os.Args[2], os.Args[3], os.Args[4:]...)
	case len(os.Args) == 3 && os.Args[1] == "call":
		err = callAll(os.Args[2])
	default:
		err = fmt.Errorf("usage: go_http serve NETWORK ADDRESS [CERTIFICATE KEY] | call PLAN")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
