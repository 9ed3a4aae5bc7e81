// Contexts of CPython that are made and freed: uprobes at instructions that probe/python_library.py has found.

// Contexts are made, mostly while another one is current: is that where the layout says? Where it is not, the layout is
// looked for, and believed when it was right once more. A thread's first one is made while there is none, which says
// nothing: servers that give each request a thread make no others.
static __always_inline void prove_layout(struct interpreter *interpreter, u32 tid) {
  if (interpreter->state != INTERPRETER_ASSUMED) return;
  u64 state = thread_state(interpreter->storage_key), current = 0;
  if (state && interpreter->context) current = read_user_word(state + interpreter->context);
  if (!current && interpreter->thread_without != tid) {
    interpreter->thread_without = tid;
    return;
  }
  u32 tries = interpreter->tries++;
  u32 size = 0;
  bpf_probe_read_user(&size, sizeof(size), (void *)(interpreter->context_type + TYPE_BASIC_BYTES));
  if (tries >= MAX_TRIES || size != CONTEXT_BYTES) {
    interpreter->state = INTERPRETER_REFUSED;
    return;
  }
  if (is_context(interpreter, current)) {
    interpreter->state = INTERPRETER_PROVEN;
    return;
  }
  u32 key = tries % TRIED_KEYS;
  state = thread_state(key);
  if (!state) return;
  for (u32 word = 1; word < TRIED_WORDS; word++) {
    u64 value = read_user_word(state + 8 * word);
    if (value & 7 || !is_context(interpreter, value)) continue;
    interpreter->storage_key = key;
    interpreter->context = 8 * word;
    return;
  }
}

// Which register holds it says the cookie, as a place in struct pt_regs; or the register tells where in memory it is.
#define COOKIE_IS_IN_MEMORY 0x200
#define COOKIE_BYTES_SHIFT 16  // and how far behind that
static __always_inline u64 register_in(struct pt_regs *ctx, u64 place) {
  u64 value = 0, address = (u64)ctx + (place & 0xf8);
  asm volatile("" : "+r"(address));
  bpf_probe_read_kernel(&value, sizeof(value), (void *)address);
  return value;
}

static __always_inline u64 value_at(struct pt_regs *ctx, u64 cookie) {
  u64 value = register_in(ctx, cookie);
  return cookie & COOKIE_IS_IN_MEMORY ? read_user_word(value + (cookie >> COOKIE_BYTES_SHIFT)) : value;
}

#define COOKIE_IS_GREENLET 0x100
#define TYPE_NAME 24  // in PyTypeObject
#define JOB_NAME_BYTES 10  // with its end

// A new context, or greenlet, belongs to whom its maker belongs to; a connection becomes the exchange that it has now.
int on_context_made(struct pt_regs *ctx) {
  u64 pid_tid = current_pid_tid();
  u32 pid = pid_tid >> 32;
  struct interpreter *interpreter = interpreters.lookup(&pid);
  if (!interpreter) return 0;
  u64 cookie = attach_cookie(ctx);
  int is_greenlet = (cookie & COOKIE_IS_GREENLET) != 0;
  struct identity made = {interpreter->process, value_at(ctx, cookie)};
  if (!is_greenlet) {
    if (!is_context(interpreter, made.address)) return 0;
    prove_layout(interpreter, pid_tid);
  }
  struct owner owner;
  find_owner(pid_tid, &owner);
  if (owner.evidence == LINK_THREAD) owner.evidence = is_greenlet ? LINK_GREENLET : LINK_CONTEXT;
  count_child(&owner);
  descend(&owner);
  // Addresses are used again: what is owned by nobody must not keep the owner of the one before.
  if (owner.kind) set_owner(&made, &owner, 0);
  else disown(&made);
  return 0;
}

// PyContext_Enter, which uvloop calls; the interpreter itself need not.
int on_context_entered(struct pt_regs *ctx) {
  u64 pid_tid = current_pid_tid();
  u32 pid = pid_tid >> 32;
  struct interpreter *interpreter = interpreters.lookup(&pid);
  struct thread *thread = threads.lookup(&pid_tid);
  if (!interpreter || !thread) return 0;
  unmark_context(thread);
  if (!(thread->flags & THREAD_HAS_READ)) return 0;
  struct identity entered = {interpreter->process, register_in(ctx, attach_cookie(ctx))};
  struct owner owner = thread->owner;
  thread->flags &= ~THREAD_HAS_READ;
  thread->owner.kind = OWNER_NOBODY;
  mark_context(pid_tid, &entered, &owner);
  return 0;
}

int on_context_freed(struct pt_regs *ctx) {
  u32 pid = current_pid_tid() >> 32;
  struct interpreter *interpreter = interpreters.lookup(&pid);
  if (!interpreter) return 0;
  struct identity freed = {interpreter->process, register_in(ctx, attach_cookie(ctx))};
  disown(&freed);
  return 0;
}

// A job of a pool: concurrent.futures' _WorkItem.
static __always_inline int is_job(u64 object) {
  char name[16] = {};
  u64 type = read_user_word(object + OBJECT_TYPE);
  bpf_probe_read_user(name, JOB_NAME_BYTES, (void *)read_user_word(type + TYPE_NAME));
  return *(u64 *)name == 0x6574496b726f575full /* _WorkIte */ && *(u16 *)(name + 8) == 'm';
}

// SimpleQueue.put: a pool copies no context, so the job itself belongs to whom its maker belongs to.
int on_job_put(struct pt_regs *ctx) {
  u64 pid_tid = current_pid_tid();
  u32 pid = pid_tid >> 32;
  struct interpreter *interpreter = interpreters.lookup(&pid);
  if (!interpreter) return 0;
  struct identity job = {interpreter->process, read_user_word(register_in(ctx, attach_cookie(ctx)))};
  if (!is_job(job.address)) return 0;
  struct owner owner;
  find_owner(pid_tid, &owner);
  owner.evidence = LINK_EXECUTOR;
  descend(&owner);
  if (owner.kind == OWNER_EXCHANGE) set_owner(&job, &owner, 0);
  else disown(&job);
  return 0;
}

// What SimpleQueue.get returns: this thread works on it from now on, and on nothing else.
int on_job_taken(struct pt_regs *ctx) {
  u64 pid_tid = current_pid_tid();
  u32 pid = pid_tid >> 32;
  struct interpreter *interpreter = interpreters.lookup(&pid);
  if (!interpreter) return 0;
  struct identity job = {interpreter->process, value_at(ctx, attach_cookie(ctx))};
  if (!job.address || !is_job(job.address)) return 0;
  struct thread thread = {};
  struct owner *owner = owner_of(&job);  // and it stays, for one way through the function may have two places
  if (owner) thread.owner = *owner;
  if (!owner || threads.update(&pid_tid, &thread)) threads.delete(&pid_tid);
  return 0;
}
