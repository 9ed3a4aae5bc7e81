// Backend: kprobes on what TCP and Unix sockets do. No other system call of the machine passes here, and whatever leads
// to these functions is seen: system calls of any kind, io_uring, splice, sendfile, kernel TLS.
//
// What is to be moved is known at entry, how much was moved at return; between the two, open_calls holds it.

static __always_inline struct target *current_target(void) {
  u32 pid = current_pid_tid() >> 32;
  struct target *target = targets.lookup(&pid);
  return target && !(target->flags & TARGET_EXCLUDED) ? target : 0;
}

static __always_inline u64 sock_of_socket(u64 socket) {
  u64 sock = 0;
  READ_FIELD(sock, socket, struct socket, sk);
  return sock;
}

// Of a target's thread. `sock` 0: what this call returns says nothing.
static __always_inline struct open_call *open_call_of(const struct target *target, u64 sock) {
  u64 thread = bpf_get_current_pid_tgid();
  struct open_call *open = open_calls.lookup(&thread);
  if (!open) {
    struct open_call fresh = {};
    if (!sock) return 0;
    open_calls.insert(&thread, &fresh);
    open = open_calls.lookup(&thread);
    if (!open) {
      lose_bytes(connections.lookup(&sock), target->service_pid);
      return 0;
    }
  }
  // The return of the call before was not seen: more calls were open than the kernel follows.
  if (open->sock) lose_bytes(connections.lookup(&open->sock), open->service_pid);
  open->sock = sock;
  open->service_pid = target->service_pid;
  return sock ? open : 0;
}

static __always_inline void enter_send(struct target *target, u64 sock, u64 message) {
  u32 flags = 0;
  READ_FIELD(flags, message, struct msghdr, msg_flags);
  struct open_call *open = open_call_of(target, flags & MSG_OOB ? 0 : sock);
  if (!open) return;
  open->is_inbound = 0;
  remember_iterator(open, message);
}

static __always_inline void enter_receive(struct target *target, u64 sock, u64 message, u64 wanted_bytes, u32 flags) {
  struct open_call *open = open_call_of(target, flags & MOVES_NO_STREAM_BYTES ? 0 : sock);
  if (!open) return;
  open->is_inbound = 1;
  open->wanted_bytes = wanted_bytes;
  remember_iterator(open, message);
  if (flags & MSG_TRUNC) open->kind = MEMORY_UNKNOWN;
}

static __always_inline void enter_page(struct target *target, u64 sock, u64 page, u32 offset) {
  struct open_call *open = open_call_of(target, sock);
  if (!open) return;
  open->is_inbound = 0;
  remember_page(open, page, offset);
}

// (struct sock *, struct msghdr *, size_t)
int on_tcp_send(struct pt_regs *ctx) {
  struct target *target = current_target();
  if (target) enter_send(target, PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx));
  return 0;
}

// (struct sock *, struct msghdr *, size_t, int flags, int *)
// Until commit ec095263a965 ("net: remove noblock parameter from recvmsg() entities") (in v5.19) with an int before.
int on_tcp_receive(struct pt_regs *ctx) {
  struct target *target = current_target();
#if PARAMETERS_tcp_recvmsg == 6
  u32 flags = PT_REGS_PARM5(ctx);
#else
  u32 flags = PT_REGS_PARM4(ctx);
#endif
  if (target) enter_receive(target, PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx), PT_REGS_PARM3(ctx), flags);
  return 0;
}

// (struct sock *, struct page *, int offset, size_t, int flags), until Linux 6.5
int on_tcp_send_page(struct pt_regs *ctx) {
  struct target *target = current_target();
  if (target) enter_page(target, PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx), PT_REGS_PARM3(ctx));
  return 0;
}

// (struct socket *, struct msghdr *, size_t)
int on_unix_send(struct pt_regs *ctx) {
  struct target *target = current_target();
  if (target) enter_send(target, sock_of_socket(PT_REGS_PARM1(ctx)), PT_REGS_PARM2(ctx));
  return 0;
}

// (struct socket *, struct msghdr *, size_t, int flags)
int on_unix_receive(struct pt_regs *ctx) {
  struct target *target = current_target();
  if (target)
    enter_receive(target, sock_of_socket(PT_REGS_PARM1(ctx)), PT_REGS_PARM2(ctx), PT_REGS_PARM3(ctx),
                  PT_REGS_PARM4(ctx));
  return 0;
}

// (struct socket *, struct page *, int offset, size_t, int flags), until Linux 6.5
int on_unix_send_page(struct pt_regs *ctx) {
  struct target *target = current_target();
  if (target) enter_page(target, sock_of_socket(PT_REGS_PARM1(ctx)), PT_REGS_PARM2(ctx), PT_REGS_PARM3(ctx));
  return 0;
}

// (struct socket *, loff_t *, struct pipe_inode_info *, size_t, unsigned flags), of TCP and Unix sockets
int on_splice_read(struct pt_regs *ctx) {
  struct target *target = current_target();
  struct open_call *open = target ? open_call_of(target, sock_of_socket(PT_REGS_PARM1(ctx))) : 0;
  if (!open) return 0;
  open->is_inbound = 1;
  open->wanted_bytes = PT_REGS_PARM4(ctx);
  open->skipped = 0;
  remember_pipe(open, PT_REGS_PARM3(ctx));
  return 0;
}

// The return of all of them.
int on_moved(struct pt_regs *ctx) {
  u64 thread = bpf_get_current_pid_tgid();
  struct open_call *open = open_calls.lookup(&thread);
  if (!open || !open->sock) return 0;
  u64 sock = open->sock;
  open->sock = 0;
  long result = (s32)PT_REGS_RC(ctx);
  if (result <= 0) {
    if (is_end_or_break(result, open->is_inbound, open->wanted_bytes)) on_no_bytes(sock, open->is_inbound, result);
    return 0;
  }
  u32 zero = 0;
  struct scratch *scratch_area = scratch.lookup(&zero);
  if (!scratch_area) return 0;
  volatile struct call *call = &scratch_area->call;
  call->bytes = result;
  call->is_inbound = open->is_inbound;
  locate_bytes(scratch_area, open);
  enum go_on go_on = on_bytes(scratch_area, sock, sock, current_pid_tid(), open->service_pid);
  scratch_area->go_on = go_on;
  if (scratch_area->for_owners) tail_programs.call(ctx, TAIL_OWNERS);
  if (go_on == GO_ON_WITH_CHUNKS) tail_programs.call(ctx, TAIL_CHUNKS);
  if (go_on == GO_ON_WITH_HEADS) tail_programs.call(ctx, TAIL_HEADS);
  if (go_on == GO_ON_WITH_BEGINNING) tail_programs.call(ctx, TAIL_BEGINNING);
  return 0;
}

// tcp_connect(struct sock *): its addresses are chosen, the first packet is about to leave.
int on_tcp_connect(struct pt_regs *ctx) {
  u64 sock = PT_REGS_PARM1(ctx);
  if (current_target()) on_new_connection(sock, ROLE_CLIENT, sock);
  return 0;
}

// unix_stream_connect(struct socket *, …)
int on_unix_connect(struct pt_regs *ctx) {
  if (!current_target()) return 0;
  u64 sock = sock_of_socket(PT_REGS_PARM1(ctx));
  on_new_connection(sock, ROLE_CLIENT, sock);
  return 0;
}

// security_sock_graft(struct sock *, struct socket *): what accept() returns gets its socket, of whatever family.
// Unlike the functions around it, it never waits.
int on_accept(struct pt_regs *ctx) {
  u64 sock = PT_REGS_PARM1(ctx);
  if (current_target()) on_new_connection(sock, ROLE_SERVER, sock);
  return 0;
}

// Nobody holds the socket any more.
static __always_inline void on_socket_end(u64 sock) {
  struct connection *connection = connections.lookup(&sock);
  if (descriptors.lookup(&sock)) descriptors.delete(&sock);
  if (connection && ends_with_close(connection)) on_last_close(sock, connection);
}

// tcp_close(struct sock *, long)
int on_tcp_close(struct pt_regs *ctx) {
  on_socket_end(PT_REGS_PARM1(ctx));
  return 0;
}

// unix_release(struct socket *)
int on_unix_release(struct pt_regs *ctx) {
  on_socket_end(sock_of_socket(PT_REGS_PARM1(ctx)));
  return 0;
}

// unix_shutdown(struct socket *, int how)
int on_unix_shutdown(struct pt_regs *ctx) {
  on_shutdown(sock_of_socket(PT_REGS_PARM1(ctx)), PT_REGS_PARM2(ctx));
  return 0;
}

// uprobe_mmap(struct vm_area_struct *): a mapping of a file is in place. (perf_event_mmap cannot be probed on 5.10.)
int on_mmap(struct pt_regs *ctx) {
  u64 area = PT_REGS_PARM1(ctx), file = 0;
  u64 flags = 0;
  READ_FIELD(flags, area, struct vm_area_struct, vm_flags);
  if (!(flags & VM_EXEC)) return 0;
  struct target *target = current_target();
  if (!target) return 0;
  READ_FIELD(file, area, struct vm_area_struct, vm_file);
  on_mapped(target, file, current_pid_tid() >> 32);
  return 0;
}

// What follows is attached while a target runs Python: see owners.c. All at entry, where the tracepoint has the return:
// between the two the thread does nothing of its own.

// A system call's arguments are in the registers that it was given.
static __always_inline u64 first_argument(struct pt_regs *ctx) {
  u64 value = 0;
  bpf_probe_read_kernel(&value, sizeof(value), &PT_REGS_PARM1((struct pt_regs *)PT_REGS_PARM1(ctx)));
  return value;
}

// epoll_wait, epoll_pwait, epoll_pwait2
int on_wait(struct pt_regs *ctx) {
  struct target *target = current_target();
  if (target && target->flags & TARGET_IS_PYTHON) on_event_wait(current_pid_tid());
  return 0;
}

// select, pselect6
int on_select_call(struct pt_regs *ctx) {
  struct target *target = current_target();
  if (!target || !(target->flags & TARGET_IS_PYTHON) || is_sleep(first_argument(ctx))) return 0;
  on_event_wait(current_pid_tid());
  return 0;
}

// accept, accept4: what the context has started since the one before was for that one's connection.
int on_accept_call(struct pt_regs *ctx) {
  struct target *target = current_target();
  if (target && target->flags & TARGET_IS_PYTHON) on_nothing_accepted(current_pid_tid());
  return 0;
}

// setsockopt, getsockname, getpeername(int descriptor, …)
int on_naming_call(struct pt_regs *ctx) {
  struct target *target = current_target();
  if (!target || !(target->flags & TARGET_READS_OUTSIDE)) return 0;
  on_socket_named(first_argument(ctx), current_pid_tid());
  return 0;
}
