// TCP tells when a connection is over, whoever holds it: the tracepoint inet_sock_set_state.
// It may run in softirq, in any process: nothing here asks which process is running, but for listen().

#define TCP_FIN_WAIT1 4
#define TCP_CLOSE 7
#define TCP_CLOSE_WAIT 8
#define TCP_LAST_ACK 9
#define TCP_LISTEN 10
#define RCV_AND_SEND_SHUTDOWN 3

static __always_inline void on_listen(u64 sock) {
  u64 pid_tid = current_pid_tid();
  u32 pid = pid_tid >> 32;
  if (!pid) return;
  struct process_event event = {};
  event.kind = PROCESS_LISTEN;
  event.pid = pid;
  READ_FIELD(event.port, sock, struct sock_common, skc_num);
  u32 word = event.port >> 6;
  u64 *ports = selected_ports.lookup(&word);
  if (ports && *ports >> (event.port & 63) & 1) {
    // Now, not when the probe has read of it: the first connection may come within the millisecond.
    struct target target = {pid, TARGET_WITHOUT_RETURN_PROBES};  // until it has been looked at
    targets.insert(&pid, &target);
    struct target *known = targets.lookup(&pid);
    if (known && !known->service_pid && !(known->flags & TARGET_EXCLUDED)) known->service_pid = pid;
  }
  struct target *target = targets.lookup(&pid);
  event.is_target = target && target->service_pid && !(target->flags & TARGET_EXCLUDED);
  bpf_get_current_comm(event.command, sizeof(event.command));
  if (process_events.ringbuf_output(&event, sizeof(event), 0)) count(COUNT_PROCESS_EVENTS_LOST);
}

// Its last bytes have left and the library has not returned yet: only then what it wrote counts.
static __always_inline int is_in_tls_write(const struct connection *connection) {
  if (is_told_early(connection)) return !sent_at(connection);
  u64 sent = connection->ciphertext_sent_monotonic_ns;
  return sent > connection->request_last_monotonic_ns && sent > connection->response_last_monotonic_ns;
}

int on_inet_sock_set_state(struct bpf_raw_tracepoint_args *ctx) {
  u64 sock = ctx->args[0];
  int state = ctx->args[2];
  if (state == TCP_LISTEN) {
    on_listen(sock);
    return 0;
  }
  struct connection *connection = connections.lookup(&sock);
  if (!connection) return 0;
  u8 shutdown = 0;
  u32 error = 0;
  READ_FIELD(shutdown, sock, struct sock, sk_shutdown);
  READ_FIELD(error, sock, struct sock, sk_err);
  // __tcp_close sets both bits before it changes the state; a reset by the peer changes the state first.
  int is_closed_here = (shutdown & RCV_AND_SEND_SHUTDOWN) == RCV_AND_SEND_SHUTDOWN;
  switch (state) {
    case TCP_CLOSE_WAIT:
      if (connection->role == ROLE_SERVER) connection->flags |= CONNECTION_PEER_SHUTDOWN;
      break;
    case TCP_FIN_WAIT1:
    case TCP_LAST_ACK:
      // A client that only shuts down its sending side still waits for the answer.
      if (connection->role == ROLE_SERVER || is_closed_here) {
        end_as_seen(connection, sock, END_CLOSED);
        if (is_closed_here) forget_connection(sock, connection);
        else connection->state = STATE_FOREIGN;
      }
      break;
    case TCP_CLOSE:
      if ((connection->role == ROLE_CLIENT || is_in_tls_write(connection)) && !is_closed_here) {
        // What came before the end may still be read; the process's next call tells.
        connection->flags |= CONNECTION_RESET | (is_timeout(error) ? CONNECTION_TIMED_OUT : 0);
        break;
      }
      if (error) end_exchange(connection, is_timeout(error) ? END_TIMED_OUT : END_RESET);
      else end_as_seen(connection, sock, END_CLOSED);
      forget_connection(sock, connection);
      break;
  }
  return 0;
}
