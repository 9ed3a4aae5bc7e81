// nginx's function that gets upstream connections, with as much of nginx's structs as leads from one to its request.
// `ask` calls it as nginx does, for a request of a client. A test loads it under nginx's name.
#include <stdint.h>
#include <stdio.h>
#include <string.h>

struct connection {
  void *data, *read, *write;
  int descriptor;
};

struct request {
  uint32_t signature;
  struct connection *connection;
};

struct log_context {
  struct connection *connection;
  struct request *request;
};

struct log {
  uintptr_t level;
  void *file;
  uintptr_t connection;
  long disk_full_time;
  void *handler;
  void *data;
};

struct peer {
  struct connection *connection;
  void *address;
  unsigned length;
  void *name;
  uintptr_t tries, start_time;
  intptr_t (*get)(struct peer *, void *);
  void *free, *notify, *data;
#ifndef WITHOUT_TLS
  void *set_session, *save_session;
#endif
  void *local;
  int kind, buffer_bytes;
  struct log *log;
};

#define AGAIN (-2)
#define DONE (-4)  // it was kept alive
#define BUSY (-3)

intptr_t ngx_event_connect_peer(struct peer *peer) {
  intptr_t result = peer->get(peer, peer->data);
  if (result) return result;
  char text[32];  // whoever has an array has a stack protector
  snprintf(text, sizeof(text), "%p", (void *)peer->connection);
  if (strlen(text) > 30) return -1;
#ifndef FORGETS_WHAT_IT_WAS_GIVEN
  peer->length++;
#endif
  return AGAIN;
}

static intptr_t get(struct peer *peer, void *data) {
  intptr_t *result = data;
  if (*result == BUSY) peer->connection = 0;
  return *result;
}

intptr_t ask(int upstream, int client, uint32_t signature, intptr_t result) {
  struct connection found = {.descriptor = upstream}, asking = {.descriptor = client};
  struct request request = {signature, &asking};
  struct log_context context = {&asking, &request};
  struct log log = {.level = 4, .data = &context};
  struct peer peer = {.connection = &found, .get = get, .data = &result, .log = &log};
  return ngx_event_connect_peer(&peer);
}
