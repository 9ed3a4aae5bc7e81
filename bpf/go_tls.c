// Backend: uprobes on crypto/tls in Go programs, at instructions within its functions: probe/go_library.py says where.
//
// A tls.Conn holds the net.Conn that it was made on, and that its descriptor: which socket it is, the object itself
// says. All offsets are the same from Go 1.21 to 1.27; family, type and role are held against what the kernel knows of
// the socket, so another layout gives no connection, and never a wrong one.

#if defined(__x86_64__)

// Go's own calling convention: arguments in these registers, the goroutine in r14.
#define GO_ARGUMENT_1(ctx) ((ctx)->ax)
#define GO_ARGUMENT_2(ctx) ((ctx)->bx)
#define GO_ARGUMENT_3(ctx) ((ctx)->cx)
#define GO_ARGUMENT_4(ctx) ((ctx)->di)
#define GO_GOROUTINE(ctx) ((ctx)->r14)
#define GO_ERROR(ctx) ((ctx)->bx)  // behind a call that returns a number and an error: the error's type, 0: none
#define GO_KEPT_ARGUMENT_1(ctx) ((ctx)->bp + 16)  // where a function keeps it: behind frame pointer and return address

// crypto/tls.Conn
#define GO_TLS_CONN_VALUE 8  // of its net.Conn; the type stands before it
#define GO_TLS_IS_CLIENT 16
// net.netFD, from its Sysfd on
#define GO_NETFD_SYSFD 16
struct go_netfd {
  u64 descriptor;
  u64 unused[4];
  u64 family;
  u64 type;
};
#define GO_WRAPPERS 2

// The socket behind the value of a net.Conn: a TCPConn or UnixConn, which is a pointer to its netFD; or a struct of the
// program's own that begins with a net.Conn.
static __always_inline u64 go_socket(u64 value) {
#pragma unroll
  for (int depth = 0; depth <= GO_WRAPPERS; depth++) {
    struct go_netfd netfd = {};
    u64 first = 0, second = 0;
    bpf_probe_read_user(&first, 8, (void *)value);
    bpf_probe_read_user(&netfd, sizeof(netfd), (void *)(first + GO_NETFD_SYSFD));
    if (netfd.type == SOCK_STREAM && netfd.family && netfd.family <= AF_INET6) {
      u64 sock = socket_of_descriptor(netfd.descriptor);
      return sock && stream_family(sock) == netfd.family ? sock : 0;
    }
    bpf_probe_read_user(&second, 8, (void *)(value + 8));
    value = second;
  }
  return 0;
}

static __always_inline u8 go_role(u64 object) {
  u8 is_client = 2;
  bpf_probe_read_user(&is_client, 1, (void *)(object + GO_TLS_IS_CLIENT));
  return is_client == 1 ? ROLE_CLIENT : is_client == 0 ? ROLE_SERVER : ROLE_UNKNOWN;
}

// The connection of a tls.Conn; 0 when it is not known, or is not what it looks like.
static __always_inline struct connection *proven_connection(u64 object, u32 service_pid, u64 *sock) {
  u64 value = 0;
  bpf_probe_read_user(&value, 8, (void *)(object + GO_TLS_CONN_VALUE));
  *sock = go_socket(value);
  struct connection *connection = *sock ? connections.lookup(sock) : 0;
  if (!connection || connection->state == STATE_FOREIGN) return connection;
  u8 role = go_role(object);
  if (connection->role == ROLE_UNKNOWN) connection->role = role;
  if (connection->role != role) return 0;
  if (!(connection->flags & CONNECTION_TLS)) {
    if (connection->position != (u32)-1) return 0;  // TLS within what began as plain text
    connection->flags |= CONNECTION_TLS;  // a client's first write makes the handshake
    count_for(service_pid, COUNT_TLS);
  }
  return connection;
}

// The connection of what a target's tls.Conn is called for; 0: nothing is to be told.
static __always_inline struct connection *go_connection(struct tls_call *call, u64 pid_tid, u64 *sock) {
  u32 pid = pid_tid >> 32;
  struct target *target = targets.lookup(&pid);
  if (!target || target->flags & TARGET_EXCLUDED) return 0;
  call->service_pid = target->service_pid;
  struct connection *connection = proven_connection(call->object, target->service_pid, sock);
  if (!connection) {
    count_for(target->service_pid, COUNT_TLS_UNPROVEN);
    return 0;
  }
  if (connection->state == STATE_FOREIGN) return 0;
  if (!(connection->flags & CONNECTION_TLS_SEEN)) {
    connection->flags |= CONNECTION_TLS_SEEN;
    count_for(target->service_pid, COUNT_TLS_SEEN);
  }
  return connection;
}

static __always_inline void tell_go_call(struct pt_regs *ctx, const struct tls_call *call,
                                         struct connection *connection, u64 sock, u64 bytes, u64 pid_tid) {
  struct tls_frame frame = frame_at_return(ctx, pid_tid);
  tls_calls.update(&frame, (struct tls_call *)call);
  struct tls_call *kept = tls_calls.lookup(&frame);
  if (!kept) return;
  struct scratch *scratch_area = hand_over(kept, connection, sock, bytes);
  if (scratch_area) tls_tail_programs.call(ctx, TAIL_BYTES);
  leave_tls(&frame, scratch_area);
}

// In (*Conn).Write, before anything leaves. A request, or its answer might be read before it is told; a response, or
// the request that follows it might: net/http reads that in another goroutine, on another CPU, while this one is on its
// way back from the socket. Told here, both come in the order in which they are. When a response was sent is told
// later.
int on_go_write(struct pt_regs *ctx) {
  u64 pid_tid = current_pid_tid(), sock = 0;
  struct tls_call call = {.is_write = 1, .is_told_early = 1, .entered_monotonic_ns = bpf_ktime_get_ns()};
  call.object = GO_ARGUMENT_1(ctx);
  call.buffer = GO_ARGUMENT_2(ctx);
  u64 bytes = GO_ARGUMENT_3(ctx);
  struct goroutine goroutine = {GO_GOROUTINE(ctx), pid_tid >> 32};
  struct connection *connection = bytes ? go_connection(&call, pid_tid, &sock) : 0;
  if (connection && connection->role == ROLE_SERVER) {
    struct go_write write = {sock, connection->id, call.entered_monotonic_ns};
    connection->flags |= CONNECTION_TOLD_EARLY;
    go_writes.update(&goroutine, &write);
  } else {
    go_writes.delete(&goroutine);  // of a Write that failed before it came to its end
  }
  if (!connection) return no_return_wanted(ctx);
  tell_go_call(ctx, &call, connection, sock, bytes, pid_tid);
  return no_return_wanted(ctx);
}

// The same goroutine, when all of it has been handed to the socket, or an error says that not all could. The next
// request may be told meanwhile, so this leaves the connection's state alone and says one thing, the time: it belongs
// to what was told before it, and to nothing told later.
int on_go_written(struct pt_regs *ctx) {
  struct goroutine goroutine = {GO_GOROUTINE(ctx), current_pid_tid() >> 32};
  struct go_write *found = go_writes.lookup(&goroutine);
  if (!found) return no_return_wanted(ctx);
  struct go_write write = *found;
  go_writes.delete(&goroutine);
  struct connection *connection = connections.lookup(&write.sock);
  if (!connection || connection->id != write.connection || GO_ERROR(ctx)) return no_return_wanted(ctx);
  // Another goroutine writes to it as well, and has told more.
  if (connection->response_last_monotonic_ns > write.entered_monotonic_ns) return no_return_wanted(ctx);
  u64 sent = connection->ciphertext_sent_monotonic_ns;
  if (sent < write.entered_monotonic_ns) sent = bpf_ktime_get_ns();
  *(volatile u64 *)&connection->sent_monotonic_ns = sent;
  u32 slot = write.connection & (PROGRESS_SLOTS - 1);
  struct progress *progress_slot = progress.lookup(&slot);
  if (progress_slot)
    __sync_val_compare_and_swap(&progress_slot->response_last_monotonic_ns,
                                write.entered_monotonic_ns | PROGRESS_UNSENT, sent);
  return no_return_wanted(ctx);
}

// In (*Conn).Read, where memmove is called: to, from, bytes.
int on_go_read(struct pt_regs *ctx) {
  u64 pid_tid = current_pid_tid(), sock = 0;
  struct tls_call call = {.buffer = GO_ARGUMENT_2(ctx)};
  bpf_probe_read_user(&call.object, 8, (void *)GO_KEPT_ARGUMENT_1(ctx));
  u64 bytes = GO_ARGUMENT_3(ctx);
  struct connection *connection = bytes ? go_connection(&call, pid_tid, &sock) : 0;
  if (connection) tell_go_call(ctx, &call, connection, sock, bytes, pid_tid);
  return no_return_wanted(ctx);
}

#else

// Nothing attaches them: go_library.py reads x86-64 programs alone.
int on_go_write(struct pt_regs *ctx) { return no_return_wanted(ctx); }
int on_go_written(struct pt_regs *ctx) { return no_return_wanted(ctx); }
int on_go_read(struct pt_regs *ctx) { return no_return_wanted(ctx); }

#endif
