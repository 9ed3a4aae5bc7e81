// A Kafka broker in one small process with nothing on disk, for tests: franz-go's kfake, which speaks Kafka's own
// protocol, with consumer groups. Prints "ready" when it listens, ends with SIGTERM.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/twmb/franz-go/pkg/kfake"
)

func main() {
	port := flag.Int("port", 9092, "listen on this port of 127.0.0.1")
	topic := flag.String("topic", "otlp-spans", "a topic that is there from the start")
	partitions := flag.Int("partitions", 4, "of that topic")
	flag.Parse()
	cluster, err := kfake.NewCluster(
		kfake.NumBrokers(1), kfake.Ports(*port), kfake.SeedTopics(int32(*partitions), *topic),
		kfake.GroupMinSessionTimeout(1), // a test that kills a consumer does not wait for minutes
	)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer cluster.Close()
	fmt.Println("ready on", cluster.ListenAddrs())
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, syscall.SIGINT)
	<-ended
}
