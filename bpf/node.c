// What runs in a thread of Node: which callback, by the number that Node itself gives it (async_hooks'
// executionAsyncId), and under which other one that was made (triggerAsyncId).
//
// Numbers are kept as doubles in memory of the environment's, whether or not anybody asks Node for them. They are never
// given twice. What reads requests from a server's connection is a parser with a number of its own, found by way of
// libuv's watcher of the descriptor, which leads to the socket's object, past the one for TLS, to who listens to it.

// libuv: uv_loop_t, uv_stream_t, uv__io_t
#define LOOP_WATCHERS 104
#define LOOP_WATCHERS_COUNT 112
#define STREAM_WATCHER 136
#define WATCHER_DESCRIPTOR 48
#define STREAM_LISTENER 8  // in node::StreamResource
#define NO_NUMBER (~0ull)
// node::AliasedBuffer, back from its pointer to the numbers: how many there are.
#define BUFFER_COUNT 16
#define NUMBERS_COUNT 4
#define HOOKS_COUNT 9
#define HOOKS_TOTAL 20  // of these: how many hooks there are

// 0 where nothing is.
static __always_inline u64 read_node_word(struct node_thread *thread, u64 address) {
  if (bpf_probe_read_user(&thread->word, sizeof(thread->word), (void *)address)) return 0;
  return thread->word;
}

// A double that is a whole number, as such.
static __always_inline u64 whole_number(u64 bits) {
  if (!bits) return 0;
  u64 exponent = bits >> 52;
  if (exponent < 1023 || exponent > 1023 + 52) return NO_NUMBER;
  u64 mantissa = (bits & 0xfffffffffffffull) | 1ull << 52, fraction_bits = 1023 + 52 - exponent;
  if (mantissa & ((1ull << fraction_bits) - 1)) return NO_NUMBER;
  return mantissa >> fraction_bits;
}

// What runs now. Returns 0 where that are no such numbers: then nothing is said.
static __always_inline int read_numbers(struct node_thread *thread, struct node_program *program) {
  struct node_numbers *numbers = &thread->numbers;
  if (thread->followed_monotonic_ns != program->followed_monotonic_ns) return 0;  // nobody has seen what was meanwhile
  if (!bpf_probe_read_user(numbers, sizeof(*numbers), (void *)thread->numbers_at)) {
    numbers->runs = whole_number(numbers->runs);
    numbers->under = whole_number(numbers->under);
    numbers->last = whole_number(numbers->last);
    if (numbers->last != NO_NUMBER && numbers->runs <= numbers->last && numbers->under <= numbers->last) return 1;
  }
  program->unread++;
  return 0;
}

// Has anybody asked Node for its numbers, AsyncLocalStorage for one? Then promises have numbers, too, and of one that
// another one is waited for by, Node says that it was made under that one, whoever waits.
static __always_inline int has_hooks(struct node_thread *thread) {
  return (u32)read_node_word(thread, thread->hooks_at + HOOKS_TOTAL) != 0;
}

// Of the socket that the event loop of this thread watches under a descriptor: its object; 0: it is none of Node's.
static __always_inline u64 node_socket(const struct node_program *program, struct node_thread *thread, u32 descriptor) {
  u64 loop = read_node_word(thread, thread->environment + program->loop);
  u64 watchers = read_node_word(thread, loop + LOOP_WATCHERS);
  if (descriptor >= (u32)read_node_word(thread, loop + LOOP_WATCHERS_COUNT)) return 0;
  u64 watcher = read_node_word(thread, watchers + 8ull * descriptor);
  if (!watcher || (u32)read_node_word(thread, watcher + WATCHER_DESCRIPTOR) != descriptor) return 0;
  u64 object = read_node_word(thread, watcher - STREAM_WATCHER);
  u64 table = read_node_word(thread, object);
  return table == program->tcp || table == program->pipe ? object : 0;
}

static __always_inline u64 node_listener(const struct node_program *program, struct node_thread *thread, u64 socket) {
  return read_node_word(thread, socket + program->stream_of_handle + STREAM_LISTENER);
}

// The object that encrypts what goes through a socket; 0: nothing does.
static __always_inline u64 node_tls(const struct node_program *program, struct node_thread *thread, u64 socket) {
  u64 object = node_listener(program, thread, socket) - program->listener_of_tls;
  return read_node_word(thread, object) == program->tls ? object : 0;
}

static __always_inline u64 number_of_object(const struct node_program *program, struct node_thread *thread,
                                            u64 object) {
  return whole_number(read_node_word(thread, object + program->id));
}

// The number of the parser that is given what a server's connection reads; 0: it is none that Node has itself.
static __always_inline u64 number_of_parser(const struct node_program *program, struct node_thread *thread,
                                            u32 descriptor) {
  u64 socket = node_socket(program, thread, descriptor);
  if (!socket) return 0;
  u64 tls = node_tls(program, thread, socket), listener = node_listener(program, thread, socket);
  if (tls) listener = read_node_word(thread, tls + program->stream_of_tls + STREAM_LISTENER);
  u64 parser = listener - program->listener_of_parser;
  if (read_node_word(thread, parser) != program->parser) return 0;
  u64 number = number_of_object(program, thread, parser);
  return number <= thread->numbers.last ? number : 0;
}

// The descriptor of the call in hand on a socket. A call on a TLS library has none: there it is the one that the
// connection began with.
static __always_inline u32 descriptor_in_hand(const struct connection *connection) {
#ifdef BY_KPROBES
  if (!(connection->flags & CONNECTION_TLS)) return first_of_system_call();
#endif
  return connection->descriptor_key;
}

static __always_inline struct node_block *node_block_of(struct node_thread *thread, u64 number) {
  u64 index = number >> 6;
  asm volatile("%0 &= %1" : "+r"(index) : "i"(NODE_BLOCKS - 1));
  return &thread->blocks[index];
}

// Something native has this number. Most of these call back again and again, for whatever request comes next.
static __always_inline void remember_lasting(struct node_thread *thread, u64 number) {
  struct node_block *block = node_block_of(thread, number);
  if (block->index != number >> 6) {
    block->index = number >> 6;
    block->lasting = 0;
  }
  block->lasting |= 1ull << (number & 63);
}

// Is the number one that is called back once: a timer's, what nextTick was given, and the like? Of what is older than
// is remembered, nothing is known.
static __always_inline int is_called_once(struct node_thread *thread, u64 number) {
  u64 last = thread->numbers.last;
  if (number <= thread->first || last - number >= 64 * (NODE_BLOCKS - 1)) return 0;
  struct node_block *block = node_block_of(thread, number);
  return block->index != number >> 6 || !(block->lasting >> (number & 63) & 1);
}

// connect() has been called: what is to be called back then was given its number just before.
static __always_inline void remember_connect(struct connection *connection, u64 pid_tid) {
  struct node_thread *thread = node_threads.lookup(&pid_tid);
  if (!thread) return;
  u64 number = whole_number(read_node_word(thread, thread->numbers_at + offsetof(struct node_numbers, last)));
  connection->connect_number = number == NO_NUMBER ? 0 : number;
}

// v8::internal::MicrotaskQueue
#define QUEUE_FINISHED 40  // how many jobs have ended

// How many jobs of this thread have ended.
static __always_inline u64 jobs_finished(struct node_thread *thread, const struct node_jobs *jobs) {
  return read_node_word(thread, jobs->queue + QUEUE_FINISHED);
}
