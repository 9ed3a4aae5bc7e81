// Backend: one raw tracepoint on sys_exit. Every system call of the machine passes here while it is attached.
//
// At exit the registers still hold the arguments, so no second hook and no map of open calls is needed.

#if defined(__x86_64__)
enum {
  NR_read = 0,
  NR_write = 1,
  NR_close = 3,
  NR_mmap = 9,
  NR_readv = 19,
  NR_writev = 20,
  NR_sendfile = 40,
  NR_connect = 42,
  NR_accept = 43,
  NR_sendto = 44,
  NR_recvfrom = 45,
  NR_sendmsg = 46,
  NR_recvmsg = 47,
  NR_shutdown = 48,
  NR_getsockname = 51,
  NR_getpeername = 52,
  NR_setsockopt = 54,
  NR_select = 23,
  NR_epoll_wait = 232,
  NR_pselect6 = 270,
  NR_epoll_pwait = 281,
  NR_splice = 275,
  NR_accept4 = 288,
  NR_recvmmsg = 299,
  NR_sendmmsg = 307,
  NR_preadv2 = 327,
  NR_pwritev2 = 328,
  NR_io_uring_enter = 426,
  NR_epoll_pwait2 = 441,
};
#define USER64_CODE_SEGMENT 0x33
// The registers from r10 to cs, as struct pt_regs has them.
struct saved_registers {
  u64 r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, cs;
};
#define FIRST_SAVED offsetof(struct pt_regs, r10)
#define SYSCALL_NUMBER(r) ((r).orig_ax)
#define ARGUMENT_0(r) ((r).di)
#define ARGUMENT_1(r) ((r).si)
#define ARGUMENT_2(r) ((r).dx)
#define ARGUMENT_3(r) ((r).r10)
#define ARGUMENT_4(r) ((r).r8)
#define IS_COMPAT(r) ((r).cs != USER64_CODE_SEGMENT)
#elif defined(__aarch64__)
enum {
  NR_epoll_pwait = 22,
  NR_close = 57,
  NR_read = 63,
  NR_write = 64,
  NR_readv = 65,
  NR_writev = 66,
  NR_sendfile = 71,
  NR_pselect6 = 72,
  NR_splice = 76,
  NR_accept = 202,
  NR_connect = 203,
  NR_getsockname = 204,
  NR_getpeername = 205,
  NR_sendto = 206,
  NR_recvfrom = 207,
  NR_setsockopt = 208,
  NR_shutdown = 210,
  NR_mmap = 222,
  NR_sendmsg = 211,
  NR_recvmsg = 212,
  NR_accept4 = 242,
  NR_recvmmsg = 243,
  NR_sendmmsg = 269,
  NR_preadv2 = 286,
  NR_pwritev2 = 287,
  NR_io_uring_enter = 426,
  NR_epoll_pwait2 = 441,
};
struct saved_registers {
  u64 regs[31], sp, pc, pstate, orig_x0;
  s32 syscallno;
  u32 unused;
};
#define FIRST_SAVED 0
#define SYSCALL_NUMBER(r) ((u64)(u32)(r).syscallno)
#define ARGUMENT_0(r) ((r).orig_x0)
#define ARGUMENT_1(r) ((r).regs[1])
#define ARGUMENT_2(r) ((r).regs[2])
#define ARGUMENT_3(r) ((r).regs[3])
#define ARGUMENT_4(r) ((r).regs[4])
#define IS_COMPAT(r) ((r).pstate & 0x10)
#endif

#define EINPROGRESS_RESULT -115

static __always_inline void on_close(u32 descriptor, u64 pid_tid) {
  u64 key = pid_tid >> 32 << 32 | descriptor;
  u64 *found = descriptors.lookup(&key);
  if (!found) return;
  u64 sock = *found;
  descriptors.delete(&key);
  struct connection *connection = connections.lookup(&sock);
  if (connection && ends_with_close(connection) && !is_still_open(sock)) on_last_close(sock, connection);
}

// How many bytes they had is written to each of them: not worth a loop, for those of a stream are hardly ever sent so.
static __always_inline void on_messages(u64 sock, u32 service_pid) {
  struct connection *connection = connections.lookup(&sock);
  if (connection) lose_bytes(connection, service_pid);
}

int on_sys_exit(struct bpf_raw_tracepoint_args *ctx) {
  u64 pid_tid = current_pid_tid();
  u32 pid = pid_tid >> 32;
  struct target *target = targets.lookup(&pid);
  if (!target || target->flags & TARGET_EXCLUDED) return 0;
  struct saved_registers registers = {};
  bpf_probe_read_kernel(&registers, sizeof(registers), (void *)(ctx->args[0] + FIRST_SAVED));
  long result = ctx->args[1];
  u32 flags = 0, is_inbound = 0, pieces = 0, is_unread = 0;
  u64 address = ARGUMENT_1(registers), descriptor_key = (u64)pid << 32 | (u32)ARGUMENT_0(registers);
  u64 wanted_bytes = ARGUMENT_2(registers);
  if (IS_COMPAT(registers)) {
    count_for(target->service_pid, COUNT_COMPAT_SYSCALLS);
    return 0;
  }
  switch (SYSCALL_NUMBER(registers)) {
    case NR_read:
      is_inbound = 1;
      break;
    case NR_write:
      break;
    case NR_recvfrom:
      is_inbound = 1;
      flags = ARGUMENT_3(registers);
      break;
    case NR_sendto:
      flags = ARGUMENT_3(registers);
      break;
    case NR_readv:
    case NR_preadv2:
      is_inbound = 1;
      pieces = ARGUMENT_2(registers);
      break;
    case NR_writev:
    case NR_pwritev2:
      pieces = ARGUMENT_2(registers);
      break;
    case NR_recvmsg:
      is_inbound = 1;
      pieces = -1;
      flags = ARGUMENT_2(registers);
      wanted_bytes = 1;  // that argument is no length
      break;
    case NR_sendmsg:
      pieces = -1;
      flags = ARGUMENT_2(registers);
      break;
    case NR_sendfile:
      is_unread = 1;
      break;
    case NR_splice:
      is_unread = 1;
      wanted_bytes = ARGUMENT_4(registers);
      is_inbound = socket_of_descriptor(ARGUMENT_0(registers)) != 0;
      if (!is_inbound) descriptor_key = (u64)pid << 32 | (u32)ARGUMENT_2(registers);  // from a pipe
      break;
    case NR_recvmmsg:
    case NR_sendmmsg:
      if (result > 0) on_messages(socket_of_descriptor(ARGUMENT_0(registers)), target->service_pid);
      return 0;
    case NR_accept:
    case NR_accept4:
      if (result >= 0) on_new_connection(socket_of_descriptor(result), ROLE_SERVER, (u64)pid << 32 | (u32)result);
      else if (target->flags & TARGET_IS_PYTHON) on_nothing_accepted(pid_tid);
      return 0;
    case NR_connect:
      if (!result || result == EINPROGRESS_RESULT)
        on_new_connection(socket_of_descriptor(ARGUMENT_0(registers)), ROLE_CLIENT, descriptor_key);
      return 0;
    case NR_close:
      on_close(ARGUMENT_0(registers), pid_tid);
      return 0;
    case NR_mmap:
      if (ARGUMENT_2(registers) & PROT_EXEC && (s32)ARGUMENT_4(registers) >= 0 && (result > 0 || result < -4095))
        on_mapped(target, file_of_descriptor(ARGUMENT_4(registers)), pid);
      return 0;
#ifdef __x86_64__
    case NR_select:
#endif
    case NR_pselect6:
      if (is_sleep(ARGUMENT_0(registers))) return 0;
      __attribute__((fallthrough));
#ifdef __x86_64__
    case NR_epoll_wait:
#endif
    case NR_epoll_pwait:
    case NR_epoll_pwait2:
      if (target->flags & TARGET_IS_PYTHON) on_event_wait(pid_tid);
      return 0;
    case NR_setsockopt:
    case NR_getsockname:
    case NR_getpeername:
      if (target->flags & TARGET_READS_OUTSIDE) on_socket_named(ARGUMENT_0(registers), pid_tid);
      return 0;
    case NR_io_uring_enter:
      if (result >= 0) count_for(target->service_pid, COUNT_IO_URING);
      return 0;
    case NR_shutdown:
      if (!result) on_shutdown(socket_of_descriptor(ARGUMENT_0(registers)), ARGUMENT_1(registers));
      return 0;
    default:
      return 0;
  }
  if (flags & MOVES_NO_STREAM_BYTES) return 0;
  if (result <= 0 && !is_end_or_break(result, is_inbound, wanted_bytes)) return 0;
  u64 sock = socket_of_descriptor(descriptor_key);
  if (!sock) return 0;
  if (result <= 0) {
    on_no_bytes(sock, is_inbound, result);
    return 0;
  }
  u32 zero = 0;
  struct scratch *scratch_area = scratch.lookup(&zero);
  if (!scratch_area) return 0;
  if (pieces == (u32)-1) {
    struct user_msghdr message = {};
    bpf_probe_read_user(&message, sizeof(message), (void *)address);
    address = (u64)message.msg_iov;
    pieces = message.msg_iovlen;
  }
  volatile struct call *call = &scratch_area->call;
  call->address = address;
  call->bytes = result;
  call->pieces = pieces;
  call->is_unread = is_unread || (is_inbound && flags & MSG_TRUNC);
  call->is_inbound = is_inbound;
  enum go_on go_on = on_bytes(scratch_area, sock, descriptor_key, pid_tid, target->service_pid);
  scratch_area->go_on = go_on;
  if (scratch_area->for_owners) tail_programs.call(ctx, TAIL_OWNERS);
  if (go_on == GO_ON_WITH_CHUNKS) tail_programs.call(ctx, TAIL_CHUNKS);
  if (go_on == GO_ON_WITH_HEADS) tail_programs.call(ctx, TAIL_HEADS);
  if (go_on == GO_ON_WITH_BEGINNING) tail_programs.call(ctx, TAIL_BEGINNING);
  return 0;
}
