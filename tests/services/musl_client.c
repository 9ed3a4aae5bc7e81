// Looks `localhost` up and asks 127.0.0.1:PORT for /musl, when a line comes on standard input.
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int count, char **arguments) {
  char line[16], answer[4096];
  struct addrinfo hints = {.ai_family = AF_INET}, *found;
  if (count != 2) return 2;
  puts("ready");
  fflush(stdout);
  if (!fgets(line, sizeof(line), stdin)) return 3;
  if (getaddrinfo("localhost", arguments[1], &hints, &found)) return 4;
  int sock = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(sock, found->ai_addr, found->ai_addrlen)) return 5;
  const char *request = "GET /musl HTTP/1.1\r\nHost: localhost\r\n\r\n";
  if (write(sock, request, strlen(request)) < 0 || read(sock, answer, sizeof(answer)) <= 0) return 6;
  return 0;
}
