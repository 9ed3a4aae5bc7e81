// Is this process a target? The first question of every hook.

static __always_inline void count(u32 which) {
  u64 *value = counters.lookup(&which);
  if (value) (*value)++;
}

// For the host and for one service. Other CPUs count for the same service: the addition is atomic.
static __always_inline void count_for(u32 service_pid, u32 which) {
  count(which);
  struct ledger_entry *entry = ledger.lookup(&service_pid);
  if (!entry) {
    u32 zero = 0;
    struct ledger_entry *nothing = no_counts.lookup(&zero);
    if (nothing) ledger.insert(&service_pid, nothing);
    entry = ledger.lookup(&service_pid);
    if (!entry) entry = ledger.lookup(&zero);
  }
  if (entry) __sync_fetch_and_add(&entry->counts[which], 1);
}

#define READ_FIELD(value, address, type, field)                                                                        \
  bpf_probe_read_kernel(&(value), sizeof(value), (void *)((u64)(address) + offsetof(type, field)))

// The current process and thread as the agent's PID namespace numbers them; 0 when it is not visible there.
// An agent outside the host's own namespace sees the processes of its namespace, not of ones nested deeper.
static __always_inline u64 current_pid_tid(void) {
#ifdef PID_NAMESPACE_INODE
  struct bpf_pidns_info numbers = {};
  if (bpf_get_ns_current_pid_tgid(PID_NAMESPACE_DEVICE, PID_NAMESPACE_INODE, &numbers, sizeof(numbers))) return 0;
  return (u64)numbers.tgid << 32 | numbers.pid;
#else
  return bpf_get_current_pid_tgid();
#endif
}

// The number of another task's process. Valid for tasks in the agent's own namespace.
static __always_inline u32 pid_of_task(u64 task) {
  u32 pid = 0;
#ifdef PID_NAMESPACE_INODE
  u64 leader = 0, numbers = 0;
  u32 level = 0;
  READ_FIELD(leader, task, struct task_struct, group_leader);
  READ_FIELD(numbers, leader, struct task_struct, thread_pid);
  READ_FIELD(level, numbers, struct pid, level);
  bpf_probe_read_kernel(&pid, sizeof(pid),
                        (void *)(numbers + offsetof(struct pid, numbers) + level * sizeof(struct upid)));
#else
  READ_FIELD(pid, task, struct task_struct, tgid);
#endif
  return pid;
}
