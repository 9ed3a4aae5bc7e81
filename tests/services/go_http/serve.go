package main

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// answerFor reads from the target what to answer, as answers.py does: /ID/key/value/key/value.
func answerFor(path string) (status, size int, chunked bool, delay time.Duration) {
	said := map[string]string{}
	words := strings.Split(strings.Trim(path, "/"), "/")
	for i := 1; i+1 < len(words); i += 2 {
		said[words[i]] = words[i+1]
	}
	number := func(key string, otherwise int) int {
		if value, err := strconv.Atoi(said[key]); err == nil {
			return value
		}
		return otherwise
	}
	return number("status", 200), number("size", 0), said["framing"] == "chunked",
		time.Duration(number("delay", 0)) * time.Millisecond
}

func answer(response http.ResponseWriter, request *http.Request) {
	received, _ := io.Copy(io.Discard, request.Body)
	status, size, chunked, delay := answerFor(request.URL.Path)
	time.Sleep(delay)
	response.Header().Set("X-Received-Bytes", strconv.FormatInt(received, 10))
	hasBody := status != http.StatusNoContent && status != http.StatusNotModified
	if hasBody && !chunked {
		response.Header().Set("Content-Length", strconv.Itoa(size))
	}
	response.WriteHeader(status)
	if !hasBody || request.Method == http.MethodHead {
		return
	}
	if !chunked {
		_, _ = response.Write(bytes.Repeat([]byte("x"), size))
		return
	}
	length := max(1, size/4)
	for at := 0; at < size; at += length {
		_, _ = response.Write(bytes.Repeat([]byte("x"), min(length, size-at)))
		response.(http.Flusher).Flush()
	}
}

// serve speaks TLS, HTTP/1 or 2 as its client chooses, when it is given a certificate and its key.
func serve(network, address string, certificate ...string) error {
	listener, err := net.Listen(network, address)
	if err != nil {
		return err
	}
	if len(certificate) == 2 {
		return http.ServeTLS(listener, http.HandlerFunc(answer), certificate[0], certificate[1])
	}
	return http.Serve(listener, http.HandlerFunc(answer))
}
