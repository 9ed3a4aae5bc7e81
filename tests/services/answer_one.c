// Started for a connection that somebody else has accepted, as by inetd: reads a request from descriptor 0 and answers it
// with as many bytes as its argument says, in several writes.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void put(const char *bytes, size_t count) {
  while (count) {
    ssize_t written = write(0, bytes, count);
    if (written <= 0) exit(1);
    bytes += written;
    count -= written;
  }
}

int main(int count, char **arguments) {
  static char head[65536], body[1000];
  size_t have = 0, size = count > 1 ? strtoul(arguments[1], NULL, 10) : 0;
  do {
    ssize_t got = read(0, head + have, sizeof(head) - 1 - have);
    if (got <= 0) return 1;
    have += got;
    head[have] = 0;
  } while (!strstr(head, "\r\n\r\n"));
  memset(body, 'x', sizeof(body));
  int length = snprintf(head, sizeof(head), "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n", size);
  put(head, length);
  for (size_t left = size; left;) {
    size_t piece = left < sizeof(body) ? left : sizeof(body);
    put(body, piece);
    left -= piece;
  }
  return 0;
}
