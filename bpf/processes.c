// Processes that come and go, for the probe: exec, fork of a target, exit of a target.

static __always_inline void send_process_event(u32 kind, u32 pid, u32 parent_pid, u16 is_target) {
  struct process_event event = {};
  event.kind = kind;
  event.pid = pid;
  event.parent_pid = parent_pid;
  event.is_target = is_target;
  bpf_get_current_comm(event.command, sizeof(event.command));
  if (process_events.ringbuf_output(&event, sizeof(event), 0)) count(COUNT_PROCESS_EVENTS_LOST);
}

// Has the program that begins been started for a connection that a target has accepted, as inetd does?
static __always_inline int is_started_to_serve(void) {
  u64 sock = socket_of_descriptor(0);
  struct connection *connection = sock ? connections.lookup(&sock) : 0;
  return connection && connection->role == ROLE_SERVER;
}

// args: task, old pid, struct linux_binprm
int on_process_exec(struct bpf_raw_tracepoint_args *ctx) {
  u64 pid_tid = current_pid_tid();
  u32 pid = pid_tid >> 32;
  if (!pid) return 0;
  u64 former_pid_tid = (u64)pid << 32 | (u32)ctx->args[1];  // it has the first thread's number from now on
  if (former_pid_tid != pid_tid) threads.delete(&former_pid_tid);
  struct target *target = targets.lookup(&pid);
  if (target && target->flags & TARGET_EXCLUDED) return 0;
  begin_program(pid_tid);
  struct process_event event = {};
  u64 file = 0, inode = 0, file_system = 0;
  READ_FIELD(file, ctx->args[2], struct linux_binprm, file);
  READ_FIELD(inode, file, struct file, f_inode);
  READ_FIELD(file_system, inode, struct inode, i_sb);
  READ_FIELD(event.executable_inode, inode, struct inode, i_ino);
  READ_FIELD(event.executable_device, file_system, struct super_block, s_dev);
  struct executable executable = {event.executable_inode, event.executable_device, 0};
  int is_target = target && target->service_pid;
  if (!is_target && executables.lookup(&executable)) {
    // A process may live for some milliseconds only: its first call must not wait for the probe.
    struct target found = {pid, 0};
    targets.update(&pid, &found);
    event.is_target = 1;
  }
  interpreters.delete(&pid);
  go_programs.delete(&pid);
  node_programs.delete(&pid);
  node_threads.delete(&pid_tid);
  node_jobs.delete(&pid_tid);
  if (target)
    target->flags &= ~(TARGET_IS_PYTHON | TARGET_READS_OUTSIDE | TARGET_IS_GO | TARGET_IS_NODE |
                       TARGET_IS_NGINX);  // until the probe has looked at it
  event.kind = PROCESS_EXEC;
  event.pid = pid;
  event.is_target |= is_target;
  event.port = is_target && is_started_to_serve();
  bpf_get_current_comm(event.command, sizeof(event.command));
  if (process_events.ringbuf_output(&event, sizeof(event), 0)) count(COUNT_PROCESS_EVENTS_LOST);
  return 0;
}

// A target has mapped a file to run it: a library.
static __always_inline void on_mapped(struct target *target, u64 file, u32 pid) {
  u64 inode = 0, file_system = 0;
  if (!file) return;
  struct executable mapped = {};
  READ_FIELD(inode, file, struct file, f_inode);
  READ_FIELD(file_system, inode, struct inode, i_sb);
  READ_FIELD(mapped.inode, inode, struct inode, i_ino);
  READ_FIELD(mapped.device, file_system, struct super_block, s_dev);
  u32 *is_told = mapped_files.lookup(&mapped), no = MAPPED_BEFORE;
  if (is_told && *is_told == MAPPED_BEFORE) return;
  if (!is_told) mapped_files.update(&mapped, &no);
  // Until it has been looked at: this may be what switches stacks.
  if (!is_told || *is_told == MAPPED_SWITCHES_STACKS) target->flags |= TARGET_WITHOUT_RETURN_PROBES;
  send_process_event(PROCESS_MAPPED, pid, 0, 1);
}

// args: parent, child. Runs in the parent, before the child does: its first call is seen.
int on_process_fork(struct bpf_raw_tracepoint_args *ctx) {
  u64 parent_pid_tid = current_pid_tid();
  u32 parent_pid = parent_pid_tid >> 32;
  struct target *parent = targets.lookup(&parent_pid);
  if (!parent || !(parent->service_pid || parent->flags & TARGET_EXCLUDED)) return 0;
  u32 pid = pid_of_task(ctx->args[1]);
  if (pid == parent_pid) return 0;  // a thread
  struct target inherited = *parent;
  inherited.flags &= ~(TARGET_IS_GO | TARGET_IS_NODE);  // a copy has one thread, and runs another program at once
  targets.update(&pid, &inherited);
  inherit_owner(parent_pid_tid, (u64)pid << 32 | pid);
  struct interpreter *interpreter = interpreters.lookup(&parent_pid);
  if (interpreter) {
    struct interpreter copy = *interpreter;
    copy.process = bpf_ktime_get_ns();
    interpreters.update(&pid, &copy);
  }
  if (!(parent->flags & TARGET_EXCLUDED)) send_process_event(PROCESS_FORK, pid, parent_pid, 1);
  return 0;
}

int on_process_exit(struct bpf_raw_tracepoint_args *ctx) {
  u64 pid_tid = current_pid_tid();
  u32 pid = pid_tid >> 32;
  threads.delete(&pid_tid);  // it may be of a process that was a target before
  struct target *target = targets.lookup(&pid);
  if (!target) return 0;
#ifdef BY_KPROBES
  u64 thread = bpf_get_current_pid_tgid();
  open_calls.delete(&thread);
#endif
  node_threads.delete(&pid_tid);
  node_jobs.delete(&pid_tid);
  u64 signal = 0;
  u32 threads_alive = 0;
  READ_FIELD(signal, ctx->args[0], struct task_struct, signal);
  READ_FIELD(threads_alive, signal, struct signal_struct, live);
  if (threads_alive) return 0;
  u32 is_excluded = target->flags & TARGET_EXCLUDED;
  targets.delete(&pid);
  interpreters.delete(&pid);
  upstream_tallies.delete(&pid);
  go_programs.delete(&pid);
  node_programs.delete(&pid);
  if (!is_excluded) send_process_event(PROCESS_EXIT, pid, 0, 1);
  return 0;
}
