// A 32-bit HTTP server without a C library: server_32_bit PORT. Answers 200 to whatever it reads, one connection each.
//   cc -m32 -nostdlib -static
enum { EXIT = 1, READ = 3, WRITE = 4, CLOSE = 6, SOCKET = 359, BIND = 361, LISTEN = 363, ACCEPT4 = 364 };
#define AF_INET 2
#define SOCK_STREAM 1
#define LOOPBACK 0x0100007f  // as it lies in memory

static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";

static int call(int number, int a, int b, int c, int d) {
  int result;
  __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d) : "memory");
  return result;
}

__attribute__((used)) static void serve(int *stack) {
  // At the start of a program: how many arguments, then where each one is.
  const char *digits = (const char *)stack[2];
  int port = 0;
  while (*digits) port = port * 10 + *digits++ - '0';
  struct {
    short family;
    unsigned short port;
    unsigned host;
    char zero[8];
  } address = {AF_INET, (unsigned short)(port << 8 | port >> 8), LOOPBACK, {0}};
  int listener = call(SOCKET, AF_INET, SOCK_STREAM, 0, 0);
  if (call(BIND, listener, (int)&address, sizeof address, 0) || call(LISTEN, listener, 8, 0, 0)) call(EXIT, 1, 0, 0, 0);
  for (;;) {
    static char request[4096];
    int connection = call(ACCEPT4, listener, 0, 0, 0);
    if (call(READ, connection, (int)request, sizeof request, 0) > 0)
      call(WRITE, connection, (int)answer, sizeof answer - 1, 0);
    call(CLOSE, connection, 0, 0, 0);
  }
}

__asm__(".globl _start\n_start: mov %esp, %eax\n and $-16, %esp\n sub $12, %esp\n push %eax\n call serve\n");
