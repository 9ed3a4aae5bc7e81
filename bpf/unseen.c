// Bytes that were moved through a watched connection, and were not seen: by a process that is no target and has its
// descriptor, by a way that no hook sees, or in a call that the kernel has not told of. TCP numbers its bytes, whoever
// moves them. And bytes of a call that was seen, which could not be read.

// Of a connection whose plain bytes are followed: how many more have been moved, in this direction, than were seen?
static __always_inline s32 unseen_bytes(const struct connection *connection, u64 sock, int is_inbound) {
  u32 seen = is_inbound ? connection->read_sequence : connection->written_sequence;
  return seen ? next_tcp_sequence(sock, !is_inbound) - seen : 0;
}

#define NO_BYTE_OF_THE_STREAM 1  // a SYN, a FIN and an urgent byte take a number each

// Before what a call has moved is taken for what follows on what was seen.
static __always_inline int has_seen_all(struct connection *connection, u64 sock, const struct call *call) {
  u32 *seen = call->is_inbound ? &connection->read_sequence : &connection->written_sequence;
  if (*seen) *seen += call->bytes;
  s32 unseen = unseen_bytes(connection, sock, call->is_inbound);
  if (unseen == NO_BYTE_OF_THE_STREAM) *seen += unseen;
  return unseen <= NO_BYTE_OF_THE_STREAM;
}

// Another thread of a client may read the answer before the call that sends the request has returned: what it asks for
// is seen only then.
static __always_inline int is_answered_first(const struct connection *connection, u64 sock) {
  u16 doubts = CONNECTION_TLS | CONNECTION_PIPELINED | CONNECTION_HAS_PIPELINED;
  int is_first = connection->state == STATE_IDLE && connection->position == (u32)-1;
  if (connection->role != ROLE_CLIENT || connection->flags & doubts) return 0;
  if (connection->family == AF_UNIX) return is_first;  // nothing proves more
  return (is_first || connection->state == STATE_RESPONSE) && unseen_bytes(connection, sock, 0) > NO_BYTE_OF_THE_STREAM;
}

// Bytes were moved that nobody has seen: nothing further can be said of the connection, if it is known.
static __always_inline void lose_bytes(struct connection *connection, u32 service_pid) {
  count_for(service_pid, COUNT_CALLS_UNSEEN);
  if (!connection || connection->state == STATE_FOREIGN) return;
  end_exchange(connection, END_SOCKET_GONE);
  connection->state = STATE_FOREIGN;
}

// The process is done with the connection, and its exchange. Where bytes of it were moved unseen, how it went is not
// known. Not for a reset, which may come while a call has moved bytes and has not returned.
static __always_inline void end_as_seen(struct connection *connection, u64 sock, u8 reason) {
  if (is_exchange_open(connection) && !(connection->flags & CONNECTION_TLS) &&
      (unseen_bytes(connection, sock, 0) > NO_BYTE_OF_THE_STREAM ||
       unseen_bytes(connection, sock, 1) > NO_BYTE_OF_THE_STREAM)) {
    count_for(connection->service_pid, COUNT_CALLS_UNSEEN);
    reason = END_SOCKET_GONE;
  }
  end_exchange(connection, reason);
}
