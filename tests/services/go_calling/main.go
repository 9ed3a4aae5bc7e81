// A service whose requests cause others, as calling_app.py is for Python: GET /in/STYLE/NAME asks the service at
// CALLS_TO for /out/STYLE/NAME/N. `go_calling PORT`, or `go_calling called PORT` for what it asks.
package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"math/rand"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"
)

var certificate, key = os.Getenv("CERTIFICATE"), os.Getenv("KEY")

var client = &http.Client{Transport: &http.Transport{
	MaxIdleConnsPerHost: 50,
	TLSClientConfig:     &tls.Config{InsecureSkipVerify: true}, // and so no HTTP/2
}}

func callsTo() string {
	scheme := "http"
	if certificate != "" {
		scheme = "https"
	}
	return scheme + "://127.0.0.1:" + os.Getenv("CALLS_TO")
}

func pause() { time.Sleep(time.Duration(rand.Intn(20)) * time.Millisecond) }

func read(response *http.Response, err error) {
	if err != nil {
		log.Print(err)
		return
	}
	_, _ = io.Copy(io.Discard, response.Body)
	_ = response.Body.Close()
}

func ask(name string, number int) {
	read(client.Get(fmt.Sprintf("%s/out/%s/%d", callsTo(), name, number)))
}

func sequence(name string) {
	for number := 0; number < 2; number++ {
		ask(name, number)
		pause()
	}
}

func post(name string) {
	body := strings.NewReader(strings.Repeat("y", 100_000))
	read(client.Post(fmt.Sprintf("%s/out/%s/0", callsTo(), name), "text/plain", body))
}

func fanOut(name string) {
	var all sync.WaitGroup
	for number := 0; number < 3; number++ {
		all.Add(1)
		go func(number int) {
			defer all.Done()
			pause()
			ask(name, number)
		}(number)
	}
	all.Wait()
}

func nested(name string) {
	done := make(chan bool)
	go func() {
		pause()
		go func() {
			pause()
			ask(name, 0)
			done <- true
		}()
	}()
	<-done
}

type job struct {
	name string
	done chan bool
}

func work(jobs chan job) {
	for one := range jobs {
		pause()
		ask(one.name, 0)
		one.done <- true
	}
}

func hand(jobs chan job, name string) {
	one := job{name, make(chan bool)}
	jobs <- one
	<-one.done
}

var ofMain, ofHandler = make(chan job), make(chan job)
var once sync.Once

func pool(name string) { hand(ofMain, name) }

// lazy starts the workers for all requests in the first one.
func lazy(name string) {
	once.Do(func() {
		for number := 0; number < 8; number++ {
			go lazyWork()
		}
	})
	hand(ofHandler, name)
}

func lazyWork() { work(ofHandler) }

func after(name string) {
	done := make(chan bool)
	time.AfterFunc(time.Millisecond, func() {
		ask(name, 0)
		done <- true
	})
	<-done
}

// outlives calls when its handler may have answered.
func outlives(name string) {
	go func() {
		pause()
		ask(name, 0)
	}()
	pause()
}

func named(request *http.Request) string { return strings.TrimPrefix(request.URL.Path, "/in/") }

func handler(style func(string)) http.Handler {
	return http.HandlerFunc(func(response http.ResponseWriter, request *http.Request) {
		pause()
		style(named(request))
		_, _ = response.Write([]byte("done"))
	})
}

func serve(address string) error {
	for number := 0; number < 8; number++ {
		go work(ofMain)
	}
	where, err := url.Parse(callsTo())
	if err != nil {
		return err
	}
	proxy := &httputil.ReverseProxy{Transport: client.Transport, Director: func(request *http.Request) {
		request.URL.Path = "/out/" + named(request) + "/0"
		request.URL.Scheme, request.URL.Host = where.Scheme, where.Host
	}}
	styles := map[string]http.Handler{
		"sequence": handler(sequence), "post": handler(post), "fanout": handler(fanOut), "nested": handler(nested),
		"pool": handler(pool), "lazy": handler(lazy), "after": handler(after), "outlives": handler(outlives),
		"proxy": proxy, "timeout": http.TimeoutHandler(handler(sequence), time.Minute, ""),
	}
	for style, handle := range styles {
		http.Handle("/in/"+style+"/", handle)
	}
	go func() {
		for number := 0; ; number++ {
			time.Sleep(20 * time.Millisecond)
			read(client.Get(fmt.Sprintf("%s/noise/%d/%d", callsTo(), os.Getpid(), number)))
		}
	}()
	return listen(address)
}

func listen(address string) error {
	if certificate != "" {
		return http.ListenAndServeTLS(address, certificate, key, nil)
	}
	return http.ListenAndServe(address, nil)
}

func called(address string) error {
	http.HandleFunc("/", func(response http.ResponseWriter, request *http.Request) {
		_, _ = io.Copy(io.Discard, request.Body)
		pause()
		_, _ = response.Write([]byte("done"))
	})
	return listen(address)
}

func main() {
	address := "127.0.0.1:" + os.Args[len(os.Args)-1]
	if os.Args[1] == "called" {
		log.Fatal(called(address))
	}
	log.Fatal(serve(address))
}
