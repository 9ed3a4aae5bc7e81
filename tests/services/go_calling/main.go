// A service whose requests cause others, as calling_app.py is for Python, by net/http alone: see calling/calling.go.
// `go_calling PORT`, or `go_calling called PORT` for what it asks.
package main

import (
	"log"
	"net/http"
	"os"

	"go_calling/calling"
)

func serve(address string) error {
	calling.Start()
	http.HandleFunc("/in/", calling.Handle)
	http.Handle("/in/proxy/", calling.Proxy())
	http.Handle("/in/timeout/", calling.Timeout())
	return calling.Listen(address, nil)
}

func main() {
	address := "127.0.0.1:" + os.Args[len(os.Args)-1]
	if os.Args[1] == "called" {
		log.Fatal(calling.Called(address))
	}
	log.Fatal(serve(address))
}
