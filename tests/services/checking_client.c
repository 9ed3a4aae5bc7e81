// Load whose every answer is checked, and whose every request can be told from the others.
//   checking_client PORT BEFORE AFTER CONNECTIONS REQUESTS PER_SECOND keep|fresh
// REQUESTS for each connection; 0: until standard input ends, and each line there is answered with the counts so far.
// PER_SECOND for all together; 0: as fast as it goes.
// The target is BEFORE, the connection's number, '-', the request's number on it, AFTER; the answer 1,000 times 'x'.
// Prints one line of JSON: of each connection how many requests were answered as they should be, what was not, and how
// long all of it took.
#define _GNU_SOURCE  // strcasestr
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_CONNECTIONS 64
#define BODY_BYTES 1000

struct connection {
  int number, fd;
  volatile long answered;
  char failure[200];
};

static int port, connections, is_kept;
static long requests;
static double per_second;
static const char *before, *after;
static volatile int is_over;

static long long now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static int connected(void) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
  if (fd < 0) return -1;
  if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) return close(fd), -1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return fd;
}

// Reads one whole answer; returns what is wrong with it, or NULL.
static const char *wrong_answer(int fd) {
  char buffer[8192];
  size_t have = 0, need = 0, head = 0;
  while (!need || have < need) {
    ssize_t count = read(fd, buffer + have, sizeof buffer - have - 1);
    if (count < 0) return strerror(errno);
    if (!count) return "closed before the answer was whole";
    have += count;
    buffer[have] = 0;
    char *end = need ? NULL : strstr(buffer, "\r\n\r\n");
    if (!end) continue;
    if (strncmp(buffer + 9, "200", 3)) return "status is not 200";
    char *length = strcasestr(buffer, "content-length:");
    if (!length || length > end || strtol(length + 15, NULL, 10) != BODY_BYTES) return "Content-Length is not 1000";
    head = end + 4 - buffer;
    need = head + BODY_BYTES;
  }
  if (have != need) return "more than one answer";
  for (size_t at = head; at < need; at++)
    if (buffer[at] != 'x') return "another body";
  return NULL;
}

static void wait_until_due(long long due_ns) {
  long long ahead_ns = due_ns - now_ns();
  if (ahead_ns < 1000000) return;
  struct timespec pause = {ahead_ns / 1000000000, ahead_ns % 1000000000};
  nanosleep(&pause, NULL);
}

static void *ask(void *argument) {
  struct connection *own = argument;
  char request[300];
  long long began = now_ns();
  own->fd = -1;
  for (long number = 0; !is_over && (!requests || number < requests); number++) {
    if (per_second > 0) wait_until_due(began + (long long)(number * 1e9 * connections / per_second));
    int length = snprintf(request, sizeof request, "GET %s%d-%ld%s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n%s\r\n", before,
                          own->number, number, after, port, is_kept ? "" : "Connection: close\r\n");
    if (own->fd < 0) own->fd = connected();
    const char *wrong = own->fd < 0 ? "cannot connect" : NULL;
    if (!wrong && write(own->fd, request, length) != length) wrong = "cannot write";
    if (!wrong) wrong = wrong_answer(own->fd);
    if (wrong) {
      snprintf(own->failure, sizeof own->failure, "request %d-%ld: %s", own->number, number, wrong);
      break;
    }
    own->answered++;
    if (!is_kept) close(own->fd), own->fd = -1;
  }
  if (own->fd >= 0) close(own->fd);
  return NULL;
}

static void print_answered(const struct connection *all) {
  printf("{\"answered\": [");
  for (int i = 0; i < connections; i++)
    printf("%s%ld", i ? ", " : "", all[i].answered);
  printf("]");
}

int main(int argc, char **argv) {
  if (argc != 8) return fprintf(stderr, "usage: see %s\n", __FILE__), 2;
  static struct connection all[MAX_CONNECTIONS];
  pthread_t threads[MAX_CONNECTIONS];
  port = atoi(argv[1]), before = argv[2], after = argv[3], connections = atoi(argv[4]);
  requests = atol(argv[5]), per_second = atof(argv[6]), is_kept = !strcmp(argv[7], "keep");
  if (connections < 1 || connections > MAX_CONNECTIONS) return fprintf(stderr, "too many connections\n"), 2;
  long long began = now_ns();
  for (int i = 0; i < connections; i++) {
    all[i].number = i;
    if (pthread_create(&threads[i], NULL, ask, &all[i])) return perror("pthread_create"), 1;
  }
  if (!requests) {
    for (int c; (c = getchar()) != EOF;) {
      if (c != '\n') continue;
      print_answered(all);
      printf("}\n");
      fflush(stdout);
    }
    is_over = 1;
  }
  for (int i = 0; i < connections; i++)
    pthread_join(threads[i], NULL);
  print_answered(all);
  printf(", \"failures\": [");
  for (int i = 0, found = 0; i < connections; i++)
    if (*all[i].failure) printf("%s\"%s\"", found++ ? ", " : "", all[i].failure);
  printf("], \"seconds\": %.3f}\n", (now_ns() - began) / 1e9);
  return 0;
}
