// Two ordinary Go services in one program. `orders serve` turns a cart into an order; it asks the cart service over plain
// HTTP and the payments service over TLS. `orders pay` is that payments service.
package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
)

const declinedAbove = 700 // the visitors' banks are strict

type line struct{ Item, Price int }

func main() {
	port := flag.Int("port", 0, "listen on this port of 127.0.0.1")
	certificate := flag.String("certificate", "", "PEM")
	key := flag.String("key", "", "PEM")
	cart := flag.String("cart", "", "the cart service: http://127.0.0.1:…")
	payments := flag.String("payments", "", "the payments service: https://localhost:…")
	flag.CommandLine.Parse(os.Args[2:])
	address := fmt.Sprintf("127.0.0.1:%d", *port)
	if os.Args[1] == "pay" {
		http.HandleFunc("/payments", pay)
		log.Fatal(http.ListenAndServeTLS(address, *certificate, *key, nil))
	}
	http.HandleFunc("/orders", order(*cart, *payments, trusting(*certificate)))
	log.Fatal(http.ListenAndServe(address, nil))
}

func trusting(certificate string) *http.Client {
	pem, err := os.ReadFile(certificate)
	if err != nil {
		log.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
}

func pay(w http.ResponseWriter, r *http.Request) {
	var sum int
	if err := json.NewDecoder(r.Body).Decode(&sum); err != nil {
		http.Error(w, "a sum is wanted", http.StatusBadRequest)
	} else if sum > declinedAbove {
		http.Error(w, "declined", http.StatusPaymentRequired)
	} else {
		fmt.Fprintln(w, "paid")
	}
}

func order(cart, payments string, client *http.Client) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var who struct{ Visitor string }
		if err := json.NewDecoder(r.Body).Decode(&who); err != nil {
			http.Error(w, "a visitor is wanted", http.StatusBadRequest)
			return
		}
		lines, err := linesOf(client, cart+"/cart/"+who.Visitor)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		if err := empty(client, cart+"/cart/"+who.Visitor); err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		sum := 0
		for _, line := range lines {
			sum += line.Price
		}
		body, _ := json.Marshal(sum)
		paid, err := client.Post(payments+"/payments", "application/json", bytes.NewReader(body))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer paid.Body.Close()
		if paid.StatusCode != http.StatusOK {
			// A poor answer, so that there is an error to be found.
			http.Error(w, "payment failed", http.StatusInternalServerError)
			return
		}
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, `{"sum": %d}`, sum)
	}
}

func linesOf(client *http.Client, url string) ([]line, error) {
	found, err := client.Get(url)
	if err != nil {
		return nil, err
	}
	defer found.Body.Close()
	var lines []line
	return lines, json.NewDecoder(found.Body).Decode(&lines)
}

func empty(client *http.Client, url string) error {
	request, err := http.NewRequest(http.MethodDelete, url, nil)
	if err != nil {
		return err
	}
	done, err := client.Do(request)
	if err == nil {
		done.Body.Close()
	}
	return err
}
