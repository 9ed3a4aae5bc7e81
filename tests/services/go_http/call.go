package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"time"
	"unsafe"
)

type plan struct {
	Host       string `json:"host"`
	Port       int    `json:"port"`
	UnixSocket string `json:"unix_socket"`
	KeepAlive  bool   `json:"keep_alive"`
	Calls      []struct {
		ID               string            `json:"id"`
		Method           string            `json:"method"`
		Target           string            `json:"target"`
		RequestBodyBytes int               `json:"request_body_bytes"`
		RequestChunked   bool              `json:"request_chunked"`
		Headers          map[string]string `json:"headers"`
	} `json:"calls"`
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

func call(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var todo plan
	if err := json.Unmarshal(text, &todo); err != nil {
		return err
	}
	fmt.Println("ready")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	transport := &http.Transport{DisableKeepAlives: !todo.KeepAlive, DisableCompression: true}
	if todo.UnixSocket != "" {
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", todo.UnixSocket)
		}
	}
	client := &http.Client{Transport: transport}
	base := "http://" + net.JoinHostPort(todo.Host, strconv.Itoa(todo.Port))
	results := []result{}
	for _, next := range todo.Calls {
		var body io.Reader
		if next.RequestBodyBytes > 0 {
			body = bytes.NewReader(bytes.Repeat([]byte("y"), next.RequestBodyBytes))
			if next.RequestChunked {
				body = onlyReader{body}
			}
		}
		request, err := http.NewRequest(next.Method, base+next.Target, body)
		if err != nil {
			return err
		}
		for name, value := range next.Headers {
			request.Header.Set(name, value)
		}
		done := result{ID: next.ID, Method: next.Method, Target: next.Target, RequestBodyBytes: next.RequestBodyBytes}
		done.StartUnixNs, done.StartMonotonicNs = time.Now().UnixNano(), monotonicNs()
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		if done.ResponseBodyBytes, err = io.Copy(io.Discard, response.Body); err != nil {
			return err
		}
		done.EndMonotonicNs = monotonicNs()
		_ = response.Body.Close()
		done.Status = response.StatusCode
		if received, err := strconv.Atoi(response.Header.Get("X-Received-Bytes")); err == nil {
			done.ReceivedBytes = &received
		}
		results = append(results, done)
	}
	return json.NewEncoder(os.Stdout).Encode(results)
}
