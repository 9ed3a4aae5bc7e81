// What is given a number in Node: a uprobe where probe/node_program.py has found node::AsyncWrap::AsyncReset to begin.

// The thread that runs this environment; it has another one after the end of the one before.
static __always_inline struct node_thread *follow_node(u64 pid_tid, struct node_program *program, u64 object) {
  u64 environment = read_user_word(read_user_word(object + program->realm) + program->environment);
  if (!environment) return 0;
  struct node_thread *thread = node_threads.lookup(&pid_tid);
  u64 followed = program->followed_monotonic_ns;
  if (thread && thread->environment == environment && thread->followed_monotonic_ns == followed) return thread;
  node_jobs.delete(&pid_tid);
  if (!thread) {
    u32 zero = 0;
    struct node_thread *nothing = no_node_thread.lookup(&zero);
    if (nothing) node_threads.update(&pid_tid, nothing);
    thread = node_threads.lookup(&pid_tid);
    if (!thread) {
      program->threads_full++;
      return 0;
    }
  }
  thread->process = bpf_ktime_get_ns();
  thread->environment = environment;
  thread->pid_tid = pid_tid;
  thread->followed_monotonic_ns = followed;
  u64 numbers = read_user_word(environment + program->numbers - BUFFER_COUNT);
  u64 hooks = read_user_word(environment + program->hooks - BUFFER_COUNT);
  int is_known = numbers == NUMBERS_COUNT && hooks == HOOKS_COUNT;  // else nothing is where it should be
  thread->numbers_at = is_known ? read_user_word(environment + program->numbers) : 0;
  thread->hooks_at = read_user_word(environment + program->hooks);
  thread->first = NO_NUMBER;
  return thread;
}

// What is made now is made for whom that runs which makes it.
int on_node_made(struct pt_regs *ctx) {
  u64 pid_tid = current_pid_tid(), object = PT_REGS_PARM1(ctx);
  u32 pid = pid_tid >> 32;
  struct node_program *program = node_programs.lookup(&pid);
  if (!program) return 0;
  struct node_thread *thread = follow_node(pid_tid, program, object);
  if (!thread || !read_numbers(thread, program)) return 0;
  u64 number = thread->numbers.last + 1;
  if (thread->first == NO_NUMBER) thread->first = number;
  remember_lasting(thread, number);
  struct owner owner;
  find_owner_of_callback(thread, &owner);
  if (owner.kind != OWNER_EXCHANGE) return 0;
  remember_run(thread, &owner);
  struct identity made = {thread->process, number};
  owner.number = NUMBER_WAS_MADE;
  set_owner(&made, &owner, 0);
  return 0;
}
