// What every backend tells beside the bytes that moved: connections begin, calls that moved nothing, ends.

#define MSG_OOB 1
#define MSG_PEEK 2
#define MSG_TRUNC 0x20  // asked for: what was received is thrown away, and the buffer stays as it was
#define MSG_ERRQUEUE 0x2000
#define MOVES_NO_STREAM_BYTES (MSG_PEEK | MSG_OOB | MSG_ERRQUEUE)
#define ECONNRESET_RESULT -104
#define EPIPE_RESULT -32
#define SHUT_RD 0
#define PROT_EXEC 4
#define VM_EXEC 4

// `descriptor_key`: pid << 32 | descriptor; of a backend that is told when a socket ends, the socket itself.
static __always_inline void on_new_connection(u64 sock, u8 role, u64 descriptor_key) {
  u32 zero = 0;
  struct scratch *scratch_area = scratch.lookup(&zero);
  if (!scratch_area || !sock) return;
  struct connection *stale = connections.lookup(&sock);
  if (stale) {
    end_exchange(stale, END_SOCKET_GONE);
    forget_connection(sock, stale);
  }
  struct connection *connection = add_connection(scratch_area, sock, role, descriptor_key, CONNECTION_BY_ACCEPT);
  if (!connection) return;
  if (role == ROLE_CLIENT) remember_connect(connection, current_pid_tid());
  if (role == ROLE_SERVER) on_accepted(connection, sock, current_pid_tid());
  if (role == ROLE_CLIENT && connection->family != AF_UNIX) tell_lookup(scratch_area, connection, current_pid_tid());
}

// Does a close end this connection? A TCP connection ends when TCP says so: another process may hold the same socket.
static __always_inline int ends_with_close(const struct connection *connection) {
  return connection->family == AF_UNIX || connection->flags & CONNECTION_RESET;
}

// The last descriptor of such a connection has been closed.
static __always_inline void on_last_close(u64 sock, struct connection *connection) {
  u8 broken = connection->flags & CONNECTION_TIMED_OUT ? END_TIMED_OUT : END_RESET;
  end_exchange(connection, connection->flags & CONNECTION_RESET ? broken : END_CLOSED);
  forget_connection(sock, connection);
}

// TCP tells of its own shutdowns; a Unix server that will send no more has ended its response.
static __always_inline void on_shutdown(u64 sock, int how) {
  struct connection *connection = sock && how != SHUT_RD ? connections.lookup(&sock) : 0;
  if (connection && connection->family == AF_UNIX && connection->role == ROLE_SERVER)
    end_exchange(connection, END_CLOSED);
}

// Of a call that moved nothing: is it the end of the stream, a reset, or TCP's giving up? A read of no bytes ends the
// stream, unless none were asked for.
static __always_inline int is_end_or_break(long result, int is_inbound, u64 wanted_bytes) {
  if (!result) return is_inbound && wanted_bytes;
  return result == ECONNRESET_RESULT || result == EPIPE_RESULT || is_timeout(-result);
}

// And then.
static __always_inline void on_no_bytes(u64 sock, int is_inbound, long result) {
  struct connection *connection = connections.lookup(&sock);
  if (!connection) return;
  if (result < 0) {
    int is_timed_out = is_timeout(-result) || connection->flags & CONNECTION_TIMED_OUT;
    end_exchange(connection, is_timed_out ? END_TIMED_OUT : END_RESET);
  } else if (is_inbound && connection->role == ROLE_CLIENT) {
    end_as_seen(connection, sock, END_PEER_CLOSED);
  } else if (is_inbound) {
    connection->flags |= CONNECTION_PEER_SHUTDOWN;
  }
}
