// What runs in a thread of CPython, as the interpreter itself says it: PyThreadState's `context`, which is one for each
// task, callback and transport of asyncio and for what is run by to_thread; and greenlet's, which switches within
// threads.

#define CONTEXT_ENTERED                                                                                                \
  40  // in PyContext: whether it is run by its run(); else it is merely a thread's or greenlet's own
#define CONTEXT_BYTES 48
#define TYPE_BASIC_BYTES 32  // in PyTypeObject
#define OBJECT_TYPE 8  // in PyObject
#define STORAGE 0x310  // of glibc's struct pthread: specific_1stblock, of two words each
#define STORAGE_KEYS 32
#define THREAD_VECTOR 8  // of struct pthread: where its thread-local storage is, two words for each file
#define GREENLET_STATE 8  // in greenlet's thread-local storage: a pointer
#define LOWEST_POINTER 4096
#define MAX_TRIES 64
#define TRIED_KEYS 4
#define TRIED_WORDS 64  // of PyThreadState

static __always_inline u64 read_user_word(u64 address) {
  u64 word = 0;
  bpf_probe_read_user(&word, sizeof(word), (void *)address);
  return word;
}

static __always_inline u64 thread_base(void) {
  u64 base = 0;
#ifdef HAVE_thread_struct_fsbase
  bpf_probe_read_kernel(&base, sizeof(base),
                        (void *)((u64)bpf_get_current_task() + offsetof(struct task_struct, thread) +
                                 offsetof(struct thread_struct, fsbase)));
#endif
  return base;
}

// The word of this thread's thread-specific data. The GIL is released around system calls, and the interpreter's own
// variables are empty then; this one never is.
static __always_inline u64 thread_state(u32 key) {
  u64 base = thread_base();
  return base && key < STORAGE_KEYS ? read_user_word(base + STORAGE + 16 * key + 8) : 0;
}

static __always_inline int is_context(const struct interpreter *interpreter, u64 address) {
  return address && read_user_word(address + OBJECT_TYPE) == interpreter->context_type;
}

// greenlet keeps what runs in a thread in thread-local storage: its state begins with the thread's own greenlet and the
// one that runs.
static __always_inline u32 find_greenlet(const struct interpreter *interpreter, u64 *greenlet) {
  u64 vector = read_user_word(thread_base() + THREAD_VECTOR);
  u64 block = read_user_word(vector + 16 * interpreter->greenlet_module);
  if (block + 1 <= LOWEST_POINTER) return RUNS_THREAD;  // none has been made in this thread
  u64 state = read_user_word(block + GREENLET_STATE), own = 0;
  if (!state) return RUNS_THREAD;
  own = read_user_word(state);
  *greenlet = read_user_word(state + 8);
  if (!own || !*greenlet || read_user_word(own + OBJECT_TYPE) != interpreter->greenlet_type) return RUNS_UNKNOWN;
  return *greenlet == own ? RUNS_THREAD : RUNS_GREENLET;
}

// The context that runs. The interpreter, where it is certain that none does.
static __always_inline struct interpreter *find_context(u32 pid, struct running *found) {
  __builtin_memset(found, 0, sizeof(*found));
  struct interpreter *interpreter = interpreters.lookup(&pid);
  if (!interpreter || interpreter->state == INTERPRETER_REFUSED || !interpreter->context) return 0;
  u64 state = thread_state(interpreter->storage_key), context = 0;
  if (!state || bpf_probe_read_user(&context, sizeof(context), (void *)(state + interpreter->context))) return 0;
  found->identity.process = interpreter->process;
  if (!context) return interpreter;
  u32 is_entered = 0;
  if (!is_context(interpreter, context)) return 0;
  if (bpf_probe_read_user(&is_entered, sizeof(is_entered), (void *)(context + CONTEXT_ENTERED))) return 0;
  if (!is_entered) return interpreter;  // it is the thread's own, and says no more
  found->kind = RUNS_CONTEXT;
  found->identity.address = context;
  return 0;
}

// `has_greenlets`: it has loaded what switches stacks.
static __always_inline void find_running(u32 pid, int has_greenlets, struct running *found) {
  struct interpreter *interpreter = find_context(pid, found);
  if (!interpreter) return;
  if (!has_greenlets) found->kind = RUNS_THREAD;
  else if (interpreter->greenlet_module) found->kind = find_greenlet(interpreter, &found->identity.address);
}
