package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"strconv"
	"syscall"
	"time"
	"unsafe"
)

type call struct {
	ID               string            `json:"id"`
	Method           string            `json:"method"`
	Target           string            `json:"target"`
	RequestBodyBytes int               `json:"request_body_bytes"`
	RequestChunked   bool              `json:"request_chunked"`
	Headers          map[string]string `json:"headers"`
}

type plan struct {
	Host       string `json:"host"`
	Port       int    `json:"port"`
	UnixSocket string `json:"unix_socket"`
	Scheme     string `json:"scheme"`
	Authority  string `json:"authority"`   // a file
	TLSVersion string `json:"tls_version"` // the highest
	HTTP2      bool   `json:"http2"`
	KeepAlive  bool   `json:"keep_alive"`
	Workers    int    `json:"workers"` // each with connections of its own; 0: one
	Calls      []call `json:"calls"`
}

type result struct {
	ID                string `json:"id"`
	Method            string `json:"method"`
	Target            string `json:"target"`
	Status            int    `json:"status"`
	RequestBodyBytes  int    `json:"request_body_bytes"`
	ResponseBodyBytes int64  `json:"response_body_bytes"`
	ReceivedBytes     *int   `json:"received_bytes"`
	StartMonotonicNs  int64  `json:"start_monotonic_ns"`
	EndMonotonicNs    int64  `json:"end_monotonic_ns"`
	StartUnixNs       int64  `json:"start_unix_ns"`
	OwnPort           *int   `json:"own_port"`
}

// onlyReader hides the length, so that net/http sends chunks.
type onlyReader struct{ io.Reader }

// monotonicNs is CLOCK_MONOTONIC, the kernel's own; Go's time package gives it only relative to an unknown start.
func monotonicNs() int64 {
	const clockMonotonic = 1
	var now syscall.Timespec
	_, _, errno := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, clockMonotonic, uintptr(unsafe.Pointer(&now)), 0)
	if errno != 0 {
		panic(errno)
	}
	return now.Nano()
}

func readPlan(path string) (todo plan, err error) {
	text, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(text, &todo)
	}
	return todo, err
}

func newClient(todo plan) (*http.Client, error) {
	transport := &http.Transport{DisableKeepAlives: !todo.KeepAlive, DisableCompression: true}
	if todo.UnixSocket != "" {
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", todo.UnixSocket)
		}
	}
	if todo.Authority != "" {
		text, err := os.ReadFile(todo.Authority)
		if err != nil {
			return nil, err
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(text)
		transport.TLSClientConfig = &tls.Config{RootCAs: roots} // no HTTP/2 then, if it is not asked for
		transport.ForceAttemptHTTP2 = todo.HTTP2
		if todo.TLSVersion == "TLSv1.2" {
			transport.TLSClientConfig.MaxVersion = tls.VersionTLS12
		}
	}
	return &http.Client{Transport: transport}, nil
}

func send(client *http.Client, base string, next call) (done result, err error) {
	var body io.Reader
	if next.RequestBodyBytes > 0 {
		body = bytes.NewReader(bytes.Repeat([]byte("y"), next.RequestBodyBytes))
		if next.RequestChunked {
			body = onlyReader{body}
		}
	}
	request, err := http.NewRequest(next.Method, base+next.Target, body)
	if err != nil {
		return done, err
	}
	for name, value := range next.Headers {
		request.Header.Set(name, value)
	}
	done = result{ID: next.ID, Method: next.Method, Target: next.Target, RequestBodyBytes: next.RequestBodyBytes}
	trace := httptrace.ClientTrace{GotConn: func(got httptrace.GotConnInfo) {
		if local, ok := got.Conn.LocalAddr().(*net.TCPAddr); ok {
			done.OwnPort = &local.Port
		}
	}}
	request = request.WithContext(httptrace.WithClientTrace(request.Context(), &trace))
	done.StartUnixNs, done.StartMonotonicNs = time.Now().UnixNano(), monotonicNs()
	response, err := client.Do(request)
	if err != nil {
		return done, err
	}
	if done.ResponseBodyBytes, err = io.Copy(io.Discard, response.Body); err != nil {
		return done, err
	}
	done.EndMonotonicNs = monotonicNs()
	_ = response.Body.Close()
	done.Status = response.StatusCode
	if received, err := strconv.Atoi(response.Header.Get("X-Received-Bytes")); err == nil {
		done.ReceivedBytes = &received
	}
	return done, nil
}

func callAll(path string) error {
	todo, err := readPlan(path)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	scheme := "http"
	if todo.Scheme != "" {
		scheme = todo.Scheme
	}
	base := scheme + "://" + net.JoinHostPort(todo.Host, strconv.Itoa(todo.Port))
	results := make([]result, len(todo.Calls))
	workers := max(1, todo.Workers)
	ends := make(chan error, workers)
	for worker := 0; worker < workers; worker++ {
		client, err := newClient(todo)
		if err != nil {
			return err
		}
		go func(first int) {
			var err error
			for i := first; i < len(todo.Calls) && err == nil; i += workers {
				results[i], err = send(client, base, todo.Calls[i])
			}
			ends <- err
		}(worker)
	}
	for worker := 0; worker < workers; worker++ {
		if err := <-ends; err != nil {
			return err
		}
	}
	return json.NewEncoder(os.Stdout).Encode(results)
}
