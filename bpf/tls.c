// Backend: uprobes on a TLS library. What its read and write functions moved goes to the same state machine as plain
// text; the ciphertext underneath is left alone.
//
// A uprobe may be preempted: programs of other threads run on the same CPU meanwhile. So each takes a scratch area for
// as long as it works. `xchg` makes that safe, which the verifier knows since commit 5ffa25502b5a ("bpf: Add
// instructions for atomic_[cmp]xchg", v5.12).

#if defined(__x86_64__)
#define RETURN_ADDRESS_BYTES 8  // on the stack, at entry
#else
#define RETURN_ADDRESS_BYTES 0
#endif

// What the loader passes as the cookie of an attachment: which layout, and which kind of function.
#define COOKIE_LAYOUT(cookie) ((cookie) & 0xff)
#define COOKIE_IS_WRITE(cookie) ((cookie) >> 8 & 1)
#define COOKIE_COUNT_ARGUMENT(cookie)                                                                                  \
  ((cookie) >> 9 & 7)  // it returns 1, and the count through this argument; 0: itself
#define COOKIE_IS_OF_FILE(cookie) ((cookie) >> 12 & 1)
#define COOKIE_IS_AT_RET(cookie) ((cookie) >> 13 & 1)  // the address to return to is still on the stack

static u64 (*attach_cookie)(void *ctx) = (void *)174;  // bpf_get_attach_cookie, newer than bcc's headers
static u64 (*entry_address)(void *ctx) = (void *)173;  // bpf_get_func_ip

// What a program at an instruction that is no return ends with. In a session, 1: a return probe is set otherwise.
// Elsewhere 0: before commit f505005bc742 ("bpf: Force uprobe bpf program to always return 0", v6.13) 1 removed the
// probe.
static __always_inline int no_return_wanted(struct pt_regs *ctx) { return attach_cookie(ctx) >> 63; }

static __always_inline struct tls_frame frame_at_return(struct pt_regs *ctx, u64 pid_tid) {
  struct tls_frame frame = {pid_tid, PT_REGS_SP(ctx)};
  if (COOKIE_IS_AT_RET(attach_cookie(ctx))) frame.stack += RETURN_ADDRESS_BYTES;
  return frame;
}

// Returns 1 when what the function returns is not wanted.
static __always_inline int enter_tls(struct pt_regs *ctx) {
  u64 pid_tid = current_pid_tid();
  u32 pid = pid_tid >> 32;
  struct target *target = targets.lookup(&pid);
  if (!target || target->flags & TARGET_EXCLUDED) return 1;
  u64 cookie = attach_cookie(ctx);
  struct tls_frame frame = {pid_tid, PT_REGS_SP(ctx) + RETURN_ADDRESS_BYTES};
  struct tls_call call = {};
  call.object = PT_REGS_PARM1(ctx);
  call.buffer = PT_REGS_PARM2(ctx);
  u32 count_argument = COOKIE_COUNT_ARGUMENT(cookie);
  u64 fourth = PT_REGS_PARM4(ctx), fifth = PT_REGS_PARM5(ctx);
  asm volatile("" : "+r"(fourth), "+r"(fifth));  // or LLVM chooses the place first, and the verifier knows it no more
  call.count_address = count_argument == 4 ? fourth : count_argument == 5 ? fifth : 0;
  call.layout = COOKIE_LAYOUT(cookie);
  call.is_write = COOKIE_IS_WRITE(cookie);
  call.is_of_file = COOKIE_IS_OF_FILE(cookie);
  if (call.is_write) call.entered_monotonic_ns = bpf_ktime_get_ns();
  call.service_pid = target->service_pid;
  tls_calls.update(&frame, &call);
  return target->flags & TARGET_WITHOUT_RETURN_PROBES ? 1 : 0;
}

// How many bytes the function moved; 0 for none, whatever the reason.
static __always_inline u64 moved_bytes(struct pt_regs *ctx, const struct tls_call *call) {
  s32 result = PT_REGS_RC(ctx);
  if (result <= 0) return 0;
  if (!call->count_address) return result;
  u64 count = 0;
  bpf_probe_read_user(&count, sizeof(count), (void *)call->count_address);
  return count <= 0x7fffffff ? count : 0;
}

#define BIO_TYPE_SOCKET 0x505
#define BIO_TYPE_MEMORY 0x401
#define LOWEST_ADDRESS 65536  // vm.mmap_min_addr: what is below is a number, not what a callback of the program wants

// What a memory BIO was last given, from its first byte: it stays there when it has been read. struct bio_buf_mem_st
// begins with a pointer to a BUF_MEM, whose data is behind a length (crypto/bio/bss_mem.c, openssl/buffer.h).
static __always_inline struct tls_socket *socket_of_memory(u64 memory, u32 pid) {
  struct tls_ciphertext key = {.pid = pid};
  u64 buffer = 0, data = 0;
  bpf_probe_read_user(&buffer, 8, (void *)memory);
  bpf_probe_read_user(&data, 8, (void *)(buffer + 8));
  if (bpf_probe_read_user(key.bytes, sizeof(key.bytes), (void *)data)) return 0;
  return tls_ciphertexts.lookup(&key);
}

// What an object reads from tells its socket, for connections whose ClientHello was not seen: the socket itself, or
// memory with ciphertext that a socket has taken.
static __always_inline void adopt_by_bio(u64 object, const struct tls_layout *layout, struct tls_key *key) {
  u64 bio = 0, method = 0, memory = 0, sock = 0, id = 0;
  u32 type = 0, descriptor = 0;
  if (!layout->read_bio || !(key->random[0] | key->random[1])) return;
  bpf_probe_read_user(&bio, 8, (void *)(object + layout->read_bio));
  if (!layout->bio_number) {
    if (bio >= LOWEST_ADDRESS) return;
    descriptor = bio;
  } else {
    bpf_probe_read_user(&method, 8, (void *)(bio + layout->bio_method));
    bpf_probe_read_user(&type, 4, (void *)method);
    if (type == BIO_TYPE_MEMORY) {
      bpf_probe_read_user(&memory, 8, (void *)(bio + layout->bio_number + 8));
      struct tls_socket *found = socket_of_memory(memory, key->pid);
      if (!found || found->is_conflict) return;
      sock = found->sock;
      id = found->connection;
    } else if (type != BIO_TYPE_SOCKET || bpf_probe_read_user(&descriptor, 4, (void *)(bio + layout->bio_number))) {
      return;
    }
  }
  if (!sock) sock = socket_of_descriptor(descriptor);
  struct connection *connection = connections.lookup(&sock);
  if (!connection || !(connection->flags & CONNECTION_TLS) || (id && connection->id != id)) return;
  u8 role = key->is_outbound ? ROLE_CLIENT : ROLE_SERVER;
  if (connection->role == ROLE_UNKNOWN) connection->role = role;
  if (connection->role == role) remember_random(key, &sock, connection);
}

// The connection that this TLS object belongs to, proven by its random.
static __always_inline struct connection *connection_of(const struct tls_call *call, u32 pid, u64 *sock) {
  u32 index = call->layout;
  struct tls_layout *layout = tls_layouts.lookup(&index);
  if (!layout) return 0;
  u64 random_holder = call->object;
  u32 server_flag = 0;
  if (layout->state_pointer != NO_STATE_POINTER)
    bpf_probe_read_user(&random_holder, 8, (void *)(call->object + layout->state_pointer));
  struct tls_key key = {.pid = pid};
  if (bpf_probe_read_user(key.random, sizeof(key.random), (void *)(random_holder + layout->random))) return 0;
  bpf_probe_read_user(&server_flag, 4, (void *)(call->object + layout->server_flag));
  key.is_outbound = !(server_flag & layout->server_mask);
  if (!tls_sockets.lookup(&key)) adopt_by_bio(call->object, layout, &key);
  struct tls_socket *found = tls_sockets.lookup(&key);
  if (!found || found->is_conflict) return 0;
  *sock = found->sock;
  struct connection *connection = connections.lookup(sock);
  return connection && connection->id == found->connection ? connection : 0;
}

// The one that the object belonged to before, if it is still open.
static __always_inline struct connection *former_connection(const struct tls_object *object) {
  struct tls_socket *former = tls_objects.lookup(object);
  if (!former) return 0;
  u64 sock = former->sock;
  struct connection *connection = connections.lookup(&sock);
  return connection && connection->id == former->connection ? connection : 0;
}

static __always_inline struct scratch *scratch_of(const struct tls_call *call) {
  u32 place = *(volatile u16 *)&call->scratch;
  return tls_scratches.lookup(&place);
}

// The place goes through the map, so that the verifier follows what comes behind once.
static __always_inline struct scratch *claim_scratch(struct tls_call *call) {
  volatile u16 *claimed = &call->scratch;
  *claimed = TLS_SCRATCHES;
  u32 place = 0;
#pragma unroll
  for (u32 turn = 0; turn < TLS_SCRATCHES; turn++) {
    struct scratch *scratch_area = tls_scratches.lookup(&place);
    if (*claimed == TLS_SCRATCHES && scratch_area && !__sync_lock_test_and_set(&scratch_area->is_taken, 1))
      *claimed = place;
    place++;
  }
  return scratch_of(call);
}

static __always_inline void leave_tls(const struct tls_frame *frame, struct scratch *scratch_area) {
  if (scratch_area) scratch_area->is_taken = 0;
  tls_calls.delete(frame);
}

// What it moved is lost to the connection's state: nothing further can be said of it.
static __always_inline void lose_connection(struct connection *connection, u32 service_pid) {
  end_exchange(connection, END_SOCKET_GONE);
  connection->state = STATE_FOREIGN;
  count_for(service_pid, COUNT_TLS_UNPROVEN);
}

// Plain text of a connection, for on_tls_bytes. Returns the scratch area that tells of it.
static __always_inline struct scratch *hand_over(struct tls_call *call, struct connection *connection, u64 sock,
                                                 u64 bytes) {
  struct scratch *scratch_area = claim_scratch(call);
  if (!scratch_area) {
    if (bytes) lose_connection(connection, call->service_pid);
    return 0;
  }
  scratch_area->sock = sock;
  struct call *moved = &scratch_area->call;
  moved->address = call->buffer;
  moved->bytes = bytes;
  moved->pieces = 0;
  moved->is_unread = call->is_of_file;
  moved->is_inbound = !call->is_write;
  return scratch_area;
}

// Node asks TLS to send a call while hands are shaken still, which it then does by itself, in no callback.
static __always_inline int is_before_first_call(const struct connection *connection) {
  return connection->role == ROLE_CLIENT && connection->state == STATE_IDLE && connection->position == (u32)-1;
}

// At the return of a function, or behind its call: what it moved is known. Returns the scratch area that says so.
static __always_inline struct scratch *on_tls_result(struct pt_regs *ctx, struct tls_call *call, u64 pid_tid) {
  u64 bytes = moved_bytes(ctx, call), sock = 0;
  if (!bytes && !(call->is_write && runs_node(pid_tid))) return 0;
  struct tls_object object = {call->object, pid_tid >> 32};
  struct connection *connection = connection_of(call, pid_tid >> 32, &sock);
  int is_proven = connection != 0;
  if (!bytes) return is_proven && is_before_first_call(connection) ? hand_over(call, connection, sock, 0) : 0;
  if (!is_proven) connection = former_connection(&object);
  if (!connection) {
    count_for(call->service_pid, COUNT_TLS_UNPROVEN);
    return 0;
  }
  if (connection->state == STATE_FOREIGN) return 0;
  if (is_proven && !(connection->flags & CONNECTION_TLS_SEEN)) {
    struct tls_socket owner = {sock, connection->id, 0};
    connection->flags |= CONNECTION_TLS_SEEN;
    tls_objects.update(&object, &owner);
    count_for(call->service_pid, COUNT_TLS_SEEN);
  }
  if (is_proven) return hand_over(call, connection, sock, bytes);
  lose_connection(connection, call->service_pid);
  return 0;
}

static __always_inline void return_from_tls(struct pt_regs *ctx) {
  u64 pid_tid = current_pid_tid();
  struct tls_frame frame = frame_at_return(ctx, pid_tid);
  struct tls_call *call = tls_calls.lookup(&frame);
  if (!call) return;
  struct scratch *scratch_area = on_tls_result(ctx, call, pid_tid);
  if (scratch_area && scratch_area->call.bytes) tls_tail_programs.call(ctx, TAIL_BYTES);
  else if (scratch_area) tls_tail_programs.call(ctx, TAIL_BEGINNING);
  leave_tls(&frame, scratch_area);
}

// Linux 6.13 and later: a uprobe session asks at entry whether the return is wanted.
int on_tls_call(struct pt_regs *ctx) {
  if (PT_REGS_IP(ctx) == entry_address(ctx)) return enter_tls(ctx);
  return_from_tls(ctx);
  return 0;
}

int on_tls_entry(struct pt_regs *ctx) {
  enter_tls(ctx);
  return 0;
}

// Also attached to the instruction behind a call, where return probes are deadly.
int on_tls_return(struct pt_regs *ctx) {
  return_from_tls(ctx);
  return no_return_wanted(ctx);
}

// The scratch area that the program before has taken.
static __always_inline struct scratch *taken_scratch(const struct tls_frame *frame) {
  struct tls_call *call = tls_calls.lookup(frame);
  return call ? scratch_of(call) : 0;
}

// What is written has left when the library's own call on the socket has: it may come to its return much later, when
// the peer, woken by the bytes, takes its CPU. What it only encrypts, for its caller to send, counts from its return.
static __always_inline u64 moved_at(const struct tls_call *call, const struct connection *connection) {
  if (call->is_told_early) return call->entered_monotonic_ns;
  u64 sent = connection->ciphertext_sent_monotonic_ns;
  return call->is_write && sent >= call->entered_monotonic_ns ? sent : bpf_ktime_get_ns();
}

// A program of its own, so that the verifier follows the state machine once, whatever the library.
int on_tls_bytes(struct pt_regs *ctx) {
  u64 pid_tid = current_pid_tid();
  struct tls_frame frame = frame_at_return(ctx, pid_tid);
  struct tls_call *call = tls_calls.lookup(&frame);
  struct scratch *scratch_area = taken_scratch(&frame);
  if (!call || !scratch_area) return no_return_wanted(ctx);
  struct connection *connection = connections.lookup(&scratch_area->sock);
  // The address is the process's word for it, and READ_MOVED may be able to read the kernel as well.
  if (connection && (s64)scratch_area->call.address >= 0) {
    struct prefix *prefix = &scratch_area->prefix;
    enum go_on go_on = GO_ON_WITH_NOTHING;
    scratch_area->for_owners = FOR_OWNERS_NOTHING;
    if (!read_prefix(scratch_area, &scratch_area->call, prefix)) lose_bytes(connection, call->service_pid);
    else
      go_on = on_plain_bytes(scratch_area, connection, &scratch_area->call, prefix, pid_tid, call->service_pid,
                             moved_at(call, connection));
    scratch_area->go_on = go_on;
    if (scratch_area->for_owners) tls_tail_programs.call(ctx, TAIL_OWNERS);
    if (go_on == GO_ON_WITH_CHUNKS) tls_tail_programs.call(ctx, TAIL_CHUNKS);
    if (go_on == GO_ON_WITH_HEADS) tls_tail_programs.call(ctx, TAIL_HEADS);
    if (go_on == GO_ON_WITH_BEGINNING) tls_tail_programs.call(ctx, TAIL_BEGINNING);
  }
  leave_tls(&frame, scratch_area);
  return no_return_wanted(ctx);
}

int on_tls_beginning(struct pt_regs *ctx) {
  u64 pid_tid = current_pid_tid();
  struct tls_frame frame = frame_at_return(ctx, pid_tid);
  struct scratch *scratch_area = taken_scratch(&frame);
  if (!scratch_area) return no_return_wanted(ctx);
  enum go_on go_on = begin_request(scratch_area, pid_tid);
  if (go_on == GO_ON_WITH_HEADS) tls_tail_programs.call(ctx, TAIL_HEADS);
  if (go_on == GO_ON_WITH_CHUNKS) tls_tail_programs.call(ctx, TAIL_CHUNKS);
  leave_tls(&frame, scratch_area);
  return no_return_wanted(ctx);
}

int on_tls_heads(struct pt_regs *ctx) {
  struct tls_frame frame = frame_at_return(ctx, current_pid_tid());
  struct scratch *scratch_area = taken_scratch(&frame);
  if (!scratch_area) return no_return_wanted(ctx);
  enum go_on go_on = read_head(scratch_area);
  if (go_on == GO_ON_WITH_HEADS) tls_tail_programs.call(ctx, TAIL_HEADS);
  if (go_on == GO_ON_WITH_CHUNKS) tls_tail_programs.call(ctx, TAIL_CHUNKS);
  leave_tls(&frame, scratch_area);
  return no_return_wanted(ctx);
}

int on_tls_chunks(struct pt_regs *ctx) {
  struct tls_frame frame = frame_at_return(ctx, current_pid_tid());
  struct scratch *scratch_area = taken_scratch(&frame);
  if (!scratch_area) return no_return_wanted(ctx);
  enum go_on go_on = read_chunks(scratch_area);
  if (go_on == GO_ON_WITH_CHUNKS) tls_tail_programs.call(ctx, TAIL_CHUNKS);
  if (go_on == GO_ON_WITH_HEADS) tls_tail_programs.call(ctx, TAIL_HEADS);
  leave_tls(&frame, scratch_area);
  return no_return_wanted(ctx);
}

int on_tls_owners(struct pt_regs *ctx) {
  struct tls_frame frame = frame_at_return(ctx, current_pid_tid());
  struct scratch *scratch_area = taken_scratch(&frame);
  if (!scratch_area) return no_return_wanted(ctx);
  note_responder(scratch_area);
  if (scratch_area->go_on == GO_ON_WITH_CHUNKS) tls_tail_programs.call(ctx, TAIL_CHUNKS);
  if (scratch_area->go_on == GO_ON_WITH_HEADS) tls_tail_programs.call(ctx, TAIL_HEADS);
  leave_tls(&frame, scratch_area);
  return no_return_wanted(ctx);
}
