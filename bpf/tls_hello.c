// The first bytes of a TLS connection: from here on what crosses the socket is ciphertext, and tls.c sees the plain
// text. The ClientHello's random crosses in clear and stays in the TLS object of both ends: it proves which socket an
// object belongs to, whatever thread, descriptor or buffer is in between.

#define TLS_HANDSHAKE 0x16
#define TLS_APPLICATION_DATA 0x17
#define TLS_RECORD_HEADER_BYTES 5
#define CLIENT_HELLO 1
#define RANDOM_OFFSET 6  // in the message: type, three bytes of length, version; RFC 8446 section 4.1.2

// A record of any version in use, RFC 8446 section 5.1. OpenSSL reads its header alone, five bytes, first.
static __always_inline int begins_like_tls(const struct prefix *prefix) {
  return prefix->length >= 2 && prefix->bytes[0] == TLS_HANDSHAKE && prefix->bytes[1] == 3;
}

// On a connection whose beginning was not seen.
static __always_inline int begins_like_tls_data(const struct prefix *prefix) {
  return prefix->length >= TLS_RECORD_HEADER_BYTES && prefix->bytes[0] == TLS_APPLICATION_DATA &&
         prefix->bytes[1] == 3 && prefix->bytes[2] == 3;
}

static __always_inline int is_hello(const struct connection *connection, const struct prefix *prefix) {
  if (connection->flags & CONNECTION_TLS_HEADER_READ) return 1;
  return connection->position == (u32)-1 && connection->state == STATE_IDLE && begins_like_tls(prefix);
}

// Two sockets with one random, in one process and direction: it relays what is not its own. Then neither is told.
static __always_inline void remember_random(struct tls_key *key, u64 *sock, struct connection *connection) {
  struct tls_socket found = {*sock, connection->id, 0};
  struct tls_socket *before = tls_sockets.lookup(key);
  if (before) {
    if (before->connection != found.connection) before->is_conflict = 1;
    return;
  }
  if (connection->hello.pid) tls_sockets.delete(&connection->hello);  // of another process that has used it
  connection->hello = *key;
  tls_sockets.update(key, &found);
  if (!connections.lookup(sock)) tls_sockets.delete(key);  // it was closed meanwhile
}

static __always_inline void on_hello(struct scratch *scratch_area, struct connection *connection,
                                     const struct prefix *prefix, u32 pid, u32 service_pid) {
  const struct call *call = &scratch_area->call;
  u64 message = 0;
  if (connection->flags & CONNECTION_TLS_HEADER_READ) {
    connection->flags &= ~CONNECTION_TLS_HEADER_READ;
  } else {
    connection->flags |= CONNECTION_TLS;
    count_for(service_pid, COUNT_TLS);
    if (call->bytes == TLS_RECORD_HEADER_BYTES) {
      connection->flags |= CONNECTION_TLS_HEADER_READ;
      return;
    }
    message = TLS_RECORD_HEADER_BYTES;
  }
  if (call->bytes < message + RANDOM_OFFSET + 32) return;
  u8 start[8] = {};
  struct tls_key key = {.pid = pid, .is_outbound = !call->is_inbound};
  if (READ_MOVED(start, sizeof(start), (void *)(prefix->address + message))) return;
  if (start[0] != CLIENT_HELLO || start[4] != 3) return;
  if (READ_MOVED(key.random, sizeof(key.random), (void *)(prefix->address + message + RANDOM_OFFSET))) return;
  remember_random(&key, &scratch_area->sock, connection);
}

// What an object with memory BIOs is given is what a socket took: for connections whose ClientHello was not seen, until
// one piece has proven which.
static __always_inline void on_older_ciphertext(struct scratch *scratch_area, u64 connection_id, u32 pid) {
  const struct call *call = &scratch_area->call;
  struct tls_ciphertext key = {.pid = pid};
  if (!call->is_inbound || call->pieces || call->is_unread || call->bytes < sizeof(key.bytes)) return;
  if (READ_MOVED(key.bytes, sizeof(key.bytes), (void *)call->address)) return;
  struct tls_socket found = {scratch_area->sock, connection_id, 0};
  struct tls_socket *before = tls_ciphertexts.lookup(&key);
  if (!before) tls_ciphertexts.update(&key, &found);
  else if (before->connection != connection_id) before->is_conflict = 1;
}
