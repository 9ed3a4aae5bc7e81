// Package calling has what a service does that calls others, whatever serves it: GET /in/STYLE/NAME asks the service at
// CALLS_TO for /out/STYLE/NAME/N.
package calling

import (
	"context"
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

// Send sends one call, with a body if there is one; Ask does so by net/http.
var Send = Ask

// CallsTo is the beginning of what is asked.
func CallsTo() string {
	scheme := "http"
	if certificate != "" {
		scheme = "https"
	}
	return scheme + "://127.0.0.1:" + os.Getenv("CALLS_TO")
}

// Pause waits for a moment of any length.
func Pause() { time.Sleep(time.Duration(rand.Intn(20)) * time.Millisecond) }

// Ask sends one call by net/http.
func Ask(ctx context.Context, target string, body string) {
	method := http.MethodGet
	if body != "" {
		method = http.MethodPost
	}
	request, err := http.NewRequestWithContext(ctx, method, target, strings.NewReader(body))
	if err != nil {
		log.Print(err)
		return
	}
	response, err := client.Do(request)
	if err != nil {
		log.Print(err)
		return
	}
	_, _ = io.Copy(io.Discard, response.Body)
	_ = response.Body.Close()
}

// Out sends one of the calls that a request causes, and nothing of it says which.
func Out(name string, number int) { OutFor(context.Background(), name, number) }

// OutFor sends it with a context.
func OutFor(ctx context.Context, name string, number int) {
	Send(ctx, fmt.Sprintf("%s/out/%s/%d", CallsTo(), name, number), "")
}

func sequence(_ context.Context, name string) {
	for number := 0; number < 2; number++ {
		Out(name, number)
		Pause()
	}
}

func post(_ context.Context, name string) {
	Send(context.Background(), fmt.Sprintf("%s/out/%s/0", CallsTo(), name), strings.Repeat("y", 100_000))
}

func fanOut(_ context.Context, name string) {
	var all sync.WaitGroup
	for number := 0; number < 3; number++ {
		all.Add(1)
		go func(number int) {
			defer all.Done()
			Pause()
			Out(name, number)
		}(number)
	}
	all.Wait()
}

func nested(_ context.Context, name string) {
	done := make(chan bool)
	go func() {
		Pause()
		go func() {
			Pause()
			Out(name, 0)
			done <- true
		}()
	}()
	<-done
}

type job struct {
	ctx  context.Context
	name string
	done chan bool
}

func work(jobs chan job) {
	for one := range jobs {
		Pause()
		OutFor(one.ctx, one.name, 0)
		one.done <- true
	}
}

func hand(jobs chan job, ctx context.Context, name string) {
	one := job{ctx, name, make(chan bool)}
	jobs <- one
	<-one.done
}

var ofMain, ofHandler = make(chan job), make(chan job)
var once sync.Once

func pool(_ context.Context, name string) { hand(ofMain, context.Background(), name) }

// poolContext hands on the request's context, as its own handlers and clients would make it.
func poolContext(ctx context.Context, name string) {
	type key struct{}
	ctx, cancel := context.WithTimeout(context.WithValue(ctx, key{}, name), time.Minute)
	defer cancel()
	hand(ofMain, ctx, name)
}

// lazy starts the workers for all requests in the first one.
func lazy(_ context.Context, name string) { lazyContext(context.Background(), name) }

func lazyContext(ctx context.Context, name string) {
	once.Do(func() {
		for number := 0; number < 8; number++ {
			go lazyWork()
		}
	})
	hand(ofHandler, ctx, name)
}

func lazyWork() { work(ofHandler) }

var ofGrowing = make(chan job)

// grow starts a worker whenever none is free; each ends when it has had nothing to do for a while.
func grow(_ context.Context, name string) {
	one := job{context.Background(), name, make(chan bool)}
	select {
	case ofGrowing <- one:
	default:
		go growingWork(one)
	}
	<-one.done
}

func growingWork(one job) {
	for {
		Pause()
		OutFor(one.ctx, one.name, 0)
		one.done <- true
		select {
		case one = <-ofGrowing:
		case <-time.After(time.Second):
			return
		}
	}
}

var given, taken = make(chan job), make(chan job)

// swap has what it starts do what is to be done for another request, if its name says that there are a pair of them;
// neither is answered before both are done.
func swap(_ context.Context, name string) {
	one := job{context.Background(), name, make(chan bool)}
	other := one
	if strings.Contains(name, "pair") {
		select {
		case given <- one:
			other = <-taken
		case other = <-given:
			taken <- one
		}
	}
	go workOnce(other)
	<-one.done
}

func workOnce(one job) {
	OutFor(one.ctx, one.name, 0)
	one.done <- true
}

func after(_ context.Context, name string) { afterContext(context.Background(), name) }

func afterContext(ctx context.Context, name string) {
	done := make(chan bool)
	time.AfterFunc(time.Millisecond, func() {
		OutFor(ctx, name, 0)
		done <- true
	})
	<-done
}

// outlives calls when its handler may have answered.
func outlives(_ context.Context, name string) {
	go func() {
		Pause()
		Out(name, 0)
	}()
	Pause()
}

// Styles are what whoever serves does for a request of that style. Each is given the request's context and its name.
var Styles = map[string]func(context.Context, string){
	"sequence": sequence, "post": post, "fanout": fanOut, "nested": nested, "pool": pool, "lazy": lazy, "grow": grow,
	"swap":  swap,
	"after": after, "outlives": outlives,
	"pool-context": poolContext, "lazy-context": lazyContext, "after-context": afterContext,
}

// Named is the name that is asked for, with its style.
func Named(path string) string { return strings.TrimPrefix(path, "/in/") }

// Run does what a request for this path asks for.
func Run(ctx context.Context, path string) {
	Pause()
	name := Named(path)
	style, _, _ := strings.Cut(name, "/")
	Styles[style](ctx, name)
}

// Handle is Run for net/http.
func Handle(response http.ResponseWriter, request *http.Request) {
	Run(request.Context(), request.URL.Path)
	_, _ = response.Write([]byte("done"))
}

// Start starts the pool, and calls that no request causes.
func Start() {
	for number := 0; number < 8; number++ {
		go work(ofMain)
	}
	go func() {
		for number := 0; ; number++ {
			time.Sleep(20 * time.Millisecond)
			// Where the contexts of requests were, these are made again.
			first, end := context.WithCancel(context.Background())
			second, _ := context.WithCancel(first)
			Send(second, fmt.Sprintf("%s/noise/%d/%d", CallsTo(), os.Getpid(), number), "")
			end()
		}
	}()
}

// Proxy hands a request on.
func Proxy() http.Handler {
	where, err := url.Parse(CallsTo())
	if err != nil {
		log.Fatal(err)
	}
	return &httputil.ReverseProxy{Transport: client.Transport, Director: func(request *http.Request) {
		request.URL.Path = "/out/" + Named(request.URL.Path) + "/0"
		request.URL.Scheme, request.URL.Host = where.Scheme, where.Host
	}}
}

// Timeout is Handle for another style, under net/http's TimeoutHandler.
func Timeout() http.Handler {
	return http.TimeoutHandler(http.HandlerFunc(func(response http.ResponseWriter, request *http.Request) {
		Pause()
		sequence(request.Context(), Named(request.URL.Path))
		_, _ = response.Write([]byte("done"))
	}), time.Minute, "")
}

// Files are those of its certificate and key, empty without TLS.
func Files() (string, string) { return certificate, key }

// Listen serves by net/http.
func Listen(address string, handler http.Handler) error {
	if certificate != "" {
		return http.ListenAndServeTLS(address, certificate, key, handler)
	}
	return http.ListenAndServe(address, handler)
}

// Called serves what is asked.
func Called(address string) error {
	return Listen(address, http.HandlerFunc(func(response http.ResponseWriter, request *http.Request) {
		_, _ = io.Copy(io.Discard, request.Body)
		Pause()
		_, _ = response.Write([]byte("done"))
	}))
}
