// Uprobes on getaddrinfo of a libc: which name a thread asks for, and what it is told.

struct user_addrinfo {  // of glibc and of musl, 64 bits
  u32 flags, family, socktype, protocol, address_bytes, padding;
  u64 address, canonical_name, next;
};

// The cookie of a probe on its end: where the result is; any other, where results are. As in probe/function_finder.py.
#define RESULT_IN_RBX 1
#define RESULT_IN_RBP 2
#define RESULT_IN_R12 3
#define RESULT_IN_R13 4
#define RESULT_IN_R14 5
#define RESULT_IN_R15 6

#define NAME_WORDS (sizeof(((struct lookup *)0)->name) / 8)
#define HASH_FACTOR 0x9e3779b97f4a7c15ull

// What is written as an address is not looked up: digits and dots, or a colon somewhere. No name: to listen on.
static __always_inline int is_address(u64 place) {
  char name[LONGEST_ADDRESS] = {};
  int is_number = 1;
  if (bpf_probe_read_user_str(name, sizeof(name), (void *)place) <= 1) return 1;
  for (int i = 0; i < LONGEST_ADDRESS; i++) {
    char byte = name[i];
    if (!byte) return is_number;
    if (byte == ':') return 1;
    if (byte != '.' && (byte < '0' || byte > '9')) is_number = 0;
  }
  return 0;
}

int on_lookup_entry(struct pt_regs *ctx) {
  u64 pid_tid = current_pid_tid();
  u32 pid = pid_tid >> 32;
  struct target *target = targets.lookup(&pid);
  if (!target || target->flags & TARGET_EXCLUDED) return 0;
  struct open_lookup open = {bpf_ktime_get_ns(), PT_REGS_PARM1(ctx), PT_REGS_PARM4(ctx)};
  if (is_address(open.name)) open_lookups.delete(&pid_tid);
  else open_lookups.update(&pid_tid, &open);
  return 0;
}

// Where its end is probed the result is not in its place yet: the cookie says in which register it is.
static __always_inline int lookup_result(struct pt_regs *ctx, u64 cookie) {
#if defined(__x86_64__)
  u64 rbx = ctx->bx, rbp = ctx->bp, r12 = ctx->r12, r13 = ctx->r13, r14 = ctx->r14, r15 = ctx->r15;
  // Or LLVM chooses the place first: "dereference of modified ctx ptr".
  asm volatile("" : "+r"(rbx), "+r"(rbp), "+r"(r12), "+r"(r13), "+r"(r14), "+r"(r15));
  if (cookie == RESULT_IN_RBX) return rbx;
  if (cookie == RESULT_IN_RBP) return rbp;
  if (cookie == RESULT_IN_R12) return r12;
  if (cookie == RESULT_IN_R13) return r13;
  if (cookie == RESULT_IN_R14) return r14;
  if (cookie == RESULT_IN_R15) return r15;
#endif
  return PT_REGS_RC(ctx);
}

static __always_inline void keep_answer(const struct lookup *lookup, u64 pid_tid, u16 family, const u8 *address,
                                        u16 port, u64 name_hash) {
  struct answer_key key = answer_key(pid_tid & ~0xffffffffull, family, address);  // for all threads
  struct answer answer = {.pid_tid = pid_tid, .at_monotonic_ns = lookup->end_monotonic_ns, .name_hash = name_hash};
  answer.port = port;
  struct answer *before = answers.lookup(&key);
  if (before) {
    answer.has_other_names = before->has_other_names || before->name_hash != name_hash;
    struct claim_key claim = claim_key(before, &key);
    int is_waiting = answer.at_monotonic_ns - before->at_monotonic_ns < MAX_LOOKUP_AGE_NS && !claims.lookup(&claim);
    answer.is_doubtful = is_waiting;
  }
  answers.update(&key, &answer);
  key.pid_tid = pid_tid;
  answers.update(&key, &answer);
}

static __always_inline u64 hash_of_name(const struct lookup *lookup) {
  u64 hash = 0;
#pragma unroll
  for (u32 i = 0; i < NAME_WORDS; i++) {
    hash = (hash ^ ((const u64 *)lookup->name)[i]) * HASH_FACTOR;
    hash ^= hash >> 32;
  }
  return hash;
}

// The addresses, in their order. A stream's alone: without hints the same one comes three times.
static __always_inline void read_answers(struct lookup *lookup, u64 node, u64 pid_tid) {
  u64 name_hash = hash_of_name(lookup);
  // In the map and not in a register: the verifier would follow each turn once for each number it may have.
  volatile u8 *count = &lookup->answer_count;
  for (int i = 0; i < MAX_LOOKUP_NODES && node; i++) {
    u32 index = *count;
    if (index >= LOOKUP_ANSWERS) break;
    struct user_addrinfo found = {};
    if (bpf_probe_read_user(&found, sizeof(found), (void *)node)) break;
    node = found.next;
    if (found.socktype != SOCK_STREAM) continue;
    u8 address[16] = {};
    u16 port = 0;  // 0 where none was asked for
    bpf_probe_read_user(&port, 2, (void *)(found.address + 2));
    if (found.family == AF_INET) bpf_probe_read_user(address, 4, (void *)(found.address + 4));
    else if (found.family == AF_INET6) bpf_probe_read_user(address, 16, (void *)(found.address + 8));
    else continue;
    lookup->families[index] = found.family;
    __builtin_memcpy(lookup->addresses + 16 * index, address, 16);
    keep_answer(lookup, pid_tid, found.family, address, __builtin_bswap16(port), name_hash);
    *count = index + 1;
  }
}

int on_lookup_end(struct pt_regs *ctx) {
  u64 pid_tid = current_pid_tid();
  struct open_lookup *entered = open_lookups.lookup(&pid_tid);
  if (!entered) return 0;
  struct open_lookup open = *entered;
  open_lookups.delete(&pid_tid);
  u64 node = 0;
  u32 zero = 0;
  if (lookup_result(ctx, attach_cookie(ctx))) {
    count(COUNT_LOOKUPS_FAILED);
    return 0;
  }
  struct lookup *blank = no_lookup.lookup(&zero);
  if (!blank || bpf_probe_read_user(&node, 8, (void *)open.result)) return 0;
  lookups.update(&pid_tid, blank);  // nobody else writes this thread's
  struct lookup *lookup = lookups.lookup(&pid_tid);
  if (!lookup) return 0;
  long length = bpf_probe_read_user_str(lookup->name, sizeof(lookup->name), (void *)open.name);
  if (length <= 1 || length == sizeof(lookup->name)) return 0;
  lookup->pid = pid_tid >> 32;
  lookup->tid = pid_tid;
  lookup->start_monotonic_ns = open.start_monotonic_ns;
  lookup->end_monotonic_ns = bpf_ktime_get_ns();
  read_answers(lookup, node, pid_tid);
  return 0;
}
