// _GNU_SOURCE is for strcasestr.
#define _GNU_SOURCE
// One keep-alive connection, one request at a time: close to the worst case for a relative cost.
//   pingpong PORT TARGET REQUESTS [PER_SECOND [PATHS]]   prints: nanoseconds of wall time for all of them
// With PER_SECOND it keeps that rate: in bursts, since a sleep is good to a tenth of a millisecond at best; 0 is none.
// With PATHS the number of a request, modulo PATHS, follows the target as five letters, which sort like the numbers.
// A C client, because a slower one would hide what the agent costs.
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static long long now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static int connected(int port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
  if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0) fail("connect");
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return fd;
}

// Reads one response with a Content-Length; returns 0 when the server closes the connection after it.
static int read_response(int fd) {
  static char buffer[1 << 17];
  size_t have = 0, need = 0;
  int stays = 1;
  while (need == 0 || have < need) {
    ssize_t count = read(fd, buffer + have, sizeof buffer - have - 1);
    if (count <= 0) fail("read");
    have += count;
    buffer[have] = 0;
    char *end = need ? NULL : strstr(buffer, "\r\n\r\n");
    if (!end) continue;
    if (strncmp(buffer + 9, "200", 3)) fail("status is not 200");
    char *length = strcasestr(buffer, "content-length:");
    if (!length || length > end) fail("no Content-Length");
    need = end + 4 - buffer + strtoul(length + 15, NULL, 10);
    stays = strncmp(buffer, "HTTP/1.0", 8) != 0 && !strcasestr(buffer, "\r\nconnection: close");
  }
  return stays;
}

static void wait_until_due(long long due_ns) {
  long long ahead_ns = due_ns - now_ns();
  if (ahead_ns < 1000000) return;
  struct timespec pause = {0, ahead_ns};
  nanosleep(&pause, NULL);
}

int main(int argc, char **argv) {
  if (argc < 4 || argc > 6) return fprintf(stderr, "usage: pingpong PORT TARGET REQUESTS [PER_SECOND [PATHS]]\n"), 2;
  char request[1024];
  int port = atoi(argv[1]), fd = -1;
  int requests = atoi(argv[3]);
  double per_second = argc > 4 ? atof(argv[4]) : 0;
  int paths = argc > 5 ? atoi(argv[5]) : 0;
  long long began = now_ns();
  for (int sent = 0; sent < requests; sent++) {
    if (per_second > 0) wait_until_due(began + (long long)(sent * 1e9 / per_second));
    char letters[6] = "";
    for (int place = 4, left = paths ? sent % paths : 0; paths && place >= 0; place--, left /= 26)
      letters[place] = 'a' + left % 26;
    int length = snprintf(request, sizeof request, "GET %s%s HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", argv[2], letters);
    if (fd < 0) fd = connected(port);
    if (write(fd, request, length) != length) fail("write");
    if (!read_response(fd)) {
      close(fd);
      fd = -1;
    }
  }
  printf("%lld\n", now_ns() - began);
  return 0;
}
