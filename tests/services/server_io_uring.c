// An HTTP server whose every byte moves through io_uring: server_io_uring PORT. Answers 200 to whatever it reads, one
// connection after the other.
#include <arpa/inet.h>
#include <linux/io_uring.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";

struct ring {
  int fd;
  struct io_uring_params params;
  char *queues;  // of submissions and of completions, in one mapping (IORING_FEAT_SINGLE_MMAP)
  struct io_uring_sqe *entries;
};

static void open_ring(struct ring *ring) {
  memset(ring, 0, sizeof *ring);
  ring->fd = syscall(__NR_io_uring_setup, 4, &ring->params);
  if (ring->fd < 0) perror("io_uring_setup"), exit(1);
  size_t size = ring->params.cq_off.cqes + ring->params.cq_entries * sizeof(struct io_uring_cqe);
  int rights = PROT_READ | PROT_WRITE, kind = MAP_SHARED | MAP_POPULATE;
  ring->queues = mmap(NULL, size, rights, kind, ring->fd, IORING_OFF_SQ_RING);
  ring->entries =
      mmap(NULL, ring->params.sq_entries * sizeof(struct io_uring_sqe), rights, kind, ring->fd, IORING_OFF_SQES);
  if (ring->queues == MAP_FAILED || ring->entries == MAP_FAILED) perror("mmap"), exit(1);
}

static unsigned *word(struct ring *ring, unsigned offset) { return (unsigned *)(ring->queues + offset); }

// One operation, and its result.
static int run(struct ring *ring, int operation, int fd, const void *address, unsigned length) {
  unsigned *tail = word(ring, ring->params.sq_off.tail);
  unsigned slot = *tail & *word(ring, ring->params.sq_off.ring_mask);
  struct io_uring_sqe *entry = &ring->entries[slot];
  memset(entry, 0, sizeof *entry);
  entry->opcode = operation, entry->fd = fd, entry->addr = (unsigned long)address, entry->len = length;
  word(ring, ring->params.sq_off.array)[slot] = slot;
  atomic_store_explicit((_Atomic unsigned *)tail, *tail + 1, memory_order_release);
  if (syscall(__NR_io_uring_enter, ring->fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0) perror("enter"), exit(1);
  unsigned *head = word(ring, ring->params.cq_off.head);
  struct io_uring_cqe *done = (struct io_uring_cqe *)(ring->queues + ring->params.cq_off.cqes);
  int result = done[*head & *word(ring, ring->params.cq_off.ring_mask)].res;
  atomic_store_explicit((_Atomic unsigned *)head, *head + 1, memory_order_release);
  return result;
}

int main(int argc, char **argv) {
  if (argc != 2) return fprintf(stderr, "usage: see %s\n", __FILE__), 2;
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  struct ring ring;
  open_ring(&ring);
  int listener = socket(AF_INET, SOCK_STREAM, 0);
  if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 8)) return perror("bind"), 1;
  for (;;) {
    static char request[4096];
    int connection = run(&ring, IORING_OP_ACCEPT, listener, NULL, 0);
    if (connection < 0) return fprintf(stderr, "accept: %s\n", strerror(-connection)), 1;
    if (run(&ring, IORING_OP_RECV, connection, request, sizeof request) > 0)
      run(&ring, IORING_OP_SEND, connection, answer, sizeof answer - 1);
    close(connection);
  }
}
