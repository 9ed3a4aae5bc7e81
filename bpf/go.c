// What runs in a thread of a Go program: which goroutine.
//
// Go keeps the address of the goroutine in r14, at system calls and at the beginning of functions. What else may stand
// there: the stack pointer must be within the stack that the goroutine says is its own.

enum { RUNS_GOROUTINE = 4 };  // enum running_kind

#if defined(__x86_64__)

// The registers of user space, at the top of the thread's stack in the kernel, whatever has led here: a system call, or
// a probe on an instruction. Kernels that are made for FRED leave sixteen bytes above them; segments tell.
#define KERNEL_STACK_BYTES 16384  // THREAD_SIZE
#define FRED_BYTES 16
#define USER_CODE 0x33
#define USER_DATA 0x2b

struct interrupt_frame {
  u64 cs, flags, sp, ss;
};

static __always_inline u64 goroutine_in(u64 registers) {
  struct interrupt_frame frame = {};
  u64 goroutine = 0, stack[2] = {};
  bpf_probe_read_kernel(&frame, sizeof(frame), (void *)(registers + offsetof(struct pt_regs, cs)));
  if ((u16)frame.cs != USER_CODE || (u16)frame.ss != USER_DATA) return 0;
  bpf_probe_read_kernel(&goroutine, 8, (void *)(registers + offsetof(struct pt_regs, r14)));
  if (bpf_probe_read_user(stack, sizeof(stack), (void *)goroutine)) return 0;
  return frame.sp >= stack[0] && frame.sp < stack[1] ? goroutine : 0;
}

// The address of the goroutine that runs in this thread; 0: none does, or it cannot be told.
static __always_inline u64 current_goroutine(void) {
  u64 stack = 0;
  READ_FIELD(stack, bpf_get_current_task(), struct task_struct, stack);
  u64 registers = stack + KERNEL_STACK_BYTES - sizeof(struct pt_regs);
  u64 goroutine = goroutine_in(registers);
  return goroutine ? goroutine : goroutine_in(registers - FRED_BYTES);
}

// What a system call was given first, in the thread that is in it.
static __always_inline u64 first_of_system_call(void) {
  u64 stack = 0, value = 0;
  READ_FIELD(stack, bpf_get_current_task(), struct task_struct, stack);
  u64 registers = stack + KERNEL_STACK_BYTES - sizeof(struct pt_regs);
  u16 code = 0;
  bpf_probe_read_kernel(&code, sizeof(code), (void *)(registers + offsetof(struct pt_regs, cs)));
  if (code != USER_CODE) registers -= FRED_BYTES;
  bpf_probe_read_kernel(&value, sizeof(value), (void *)(registers + offsetof(struct pt_regs, di)));
  return value;
}

#else

static __always_inline u64 current_goroutine(void) { return 0; }
static __always_inline u64 first_of_system_call(void) { return ~0ull; }

#endif

static __always_inline void find_goroutine(u32 pid, struct running *found) {
  __builtin_memset(found, 0, sizeof(*found));
  struct go_program *program = go_programs.lookup(&pid);
  u64 goroutine = program ? current_goroutine() : 0;
  if (!program || !goroutine) return;
  found->kind = RUNS_GOROUTINE;
  found->identity.process = program->process;
  found->identity.address = read_user_word(goroutine + program->number);
  found->start = read_user_word(goroutine + program->start);
}
