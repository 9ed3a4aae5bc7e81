// Goroutines that are started, and those that call: uprobes at instructions that probe/go_program.py has found.

#if defined(__x86_64__)

// This request and the one at that place are in hand beside each other, if the other one is in hand at all.
static __always_inline int note_beside(const struct owner *owner, const struct owner *other) {
  if (!other->kind || other->connection == owner->connection) return 0;
  struct connection *connection = connection_of_owner(other);
  if (!connection || connection->position != other->position || connection->state != STATE_REQUEST) return 0;
  connection->beside = other->position + 1;
  return 1;
}

// This request is in hand, and so may others be. Of two that come at once, one at least sees the other.
static __always_inline void note_request(u64 process, const struct owner *owner) {
  struct go_newest *newest = go_newest.lookup(&process);
  if (!newest) {
    struct go_newest none = {};
    go_newest.update(&process, &none);
    newest = go_newest.lookup(&process);
    if (!newest) return;
  }
  struct owner *own = &newest->requests[owner->connection & (GO_NEWEST - 1)];
  if (own->connection == owner->connection && own->position == owner->position) return;  // told before
  int is_beside = note_beside(owner, own);
  *own = *owner;
  __sync_fetch_and_add(&newest->told, 1);  // nothing below is read before this is written
#pragma unroll
  for (int place = 0; place < GO_NEWEST; place++)
    is_beside |= note_beside(owner, &newest->requests[place]);
  struct connection *connection = connection_of_owner(owner);
  if (connection && is_beside) connection->beside = owner->position + 1;
}

// In runtime.newproc.func1, where runqput is called: the new goroutine, complete, and nobody has seen it. What it does
// is its starter's work, as far as that has a request in hand.
int on_goroutine_born(struct pt_regs *ctx) {
  u32 pid = current_pid_tid() >> 32;
  struct go_program *program = go_programs.lookup(&pid);
  if (!program) return 0;
  u64 goroutine = GO_ARGUMENT_2(ctx);
  struct identity parent = {program->process, read_user_word(goroutine + program->parent_number)};
  struct owner *owner = owner_of(&parent);
  if (!owner || owner->kind != OWNER_EXCHANGE || !is_unanswered(owner)) return 0;
  struct identity born = {program->process, read_user_word(goroutine + program->number)};
  struct owner inherited = *owner;
  if (!inherited.lineage) note_request(program->process, &inherited);
  descend(&inherited);
  set_owner(&born, &inherited, 0);
  return 0;
}

// A value of an interface type, as context.Context is one.
struct go_interface {
  u64 table;  // of methods of its type; the address of the interface's description stands first in it
  u64 object;
};

static __always_inline struct go_interface read_interface(u64 address) {
  struct go_interface value = {};
  bpf_probe_read_user(&value, sizeof(value), (void *)address);
  return value;
}

// serverHandler.ServeHTTP, in the goroutine that has read the request, with a context of the request's own. A context
// holds what it was made of as its first word: so does this one, that of its connection, which is of the same type;
// and that one holds a value, which is another type of context. What is not so is no request's context.
int on_request_handled(struct pt_regs *ctx) {
  u32 pid = current_pid_tid() >> 32;
  struct go_program *program = go_programs.lookup(&pid);
  struct running running;
  find_goroutine(pid, &running);
  if (!program || running.kind != RUNS_GOROUTINE) return 0;
  struct go_interface context = read_interface(GO_ARGUMENT_4(ctx) + program->context);
  struct identity key = {running.identity.process, context.object};
  struct owner *owner = owner_of(&running.identity);
  if (!owner || owner->kind != OWNER_EXCHANGE || owner->lineage || !is_unanswered(owner)) {
    go_contexts.delete(&key);
    return 0;
  }
  struct go_context known = {*owner};
  known.owner.evidence = LINK_REQUEST_CONTEXT;
  note_request(program->process, &known.owner);
  struct go_interface of_connection = read_interface(context.object);
  u64 value = read_interface(of_connection.object).table;
  u64 description = read_user_word(context.table);
  if (!description || of_connection.table != context.table) return 0;
  if (value == context.table || read_user_word(value) != description) return 0;
  known.parent = of_connection.object;
  program->cancels = context.table;
  if (go_contexts.update(&key, &known)) go_contexts.delete(&key);
  return 0;
}

// Of which request a call's context was made. Each one on the way is a context by its type, and what it was made of its
// first word. net/http keeps a request's context until that is answered, so until then nothing else is at its address;
// unless the handler has taken the connection for itself, and then what is there has another parent.
static __always_inline void find_owner_of_context(const struct go_program *program, u64 request, struct owner *found) {
  struct go_interface context = read_interface(request + program->context);
  u64 description = read_user_word(program->cancels);
  if (!description) return;
#pragma unroll
  for (int depth = 0; depth < GO_CONTEXTS; depth++) {
    if (read_user_word(context.table) != description) return;
    struct go_interface parent = read_interface(context.object);
    struct identity key = {program->process, context.object};
    struct go_context *known = context.table == program->cancels ? go_contexts.lookup(&key) : 0;
    if (known) {
      if (known->parent == parent.object && is_unanswered(&known->owner)) *found = known->owner;
      return;
    }
    context = parent;
  }
}

// (*persistConn).roundTrip, in the goroutine that calls. What writes the request to the socket is another one, the
// connection's own, which serves whoever calls on it.
int on_round_trip(struct pt_regs *ctx) {
  u32 pid = current_pid_tid() >> 32;
  struct running running;
  struct owner owner;
  struct go_program *program = go_programs.lookup(&pid);
  if (!program) return 0;
  own_nothing(&owner);
  find_goroutine(pid, &running);
  if (running.kind != RUNS_GOROUTINE) {
    running.identity.process = program->process;
  } else {
    find_owner_of_goroutine(&running, &owner);
    // What has read a request itself works for that one. All others may have been given work by another one.
    if (owner.kind != OWNER_EXCHANGE || owner.lineage) {
      find_owner_of_context(program, read_user_word(GO_ARGUMENT_2(ctx)), &owner);
      if (owner.evidence == LINK_REQUEST_CONTEXT) note_worker(&running, &owner);
    }
  }
  struct identity connection = {running.identity.process, GO_ARGUMENT_1(ctx)};
  if (owner.kind != OWNER_EXCHANGE || go_requests.update(&connection, &owner)) go_requests.delete(&connection);
  return 0;
}

// persistConnWriter.Write: for which connection this goroutine writes.
int on_connection_write(struct pt_regs *ctx) {
  struct running running;
  find_goroutine(current_pid_tid() >> 32, &running);
  if (running.kind != RUNS_GOROUTINE) return 0;
  u64 connection = GO_ARGUMENT_1(ctx);
  go_writers.update(&running.identity, &connection);
  return 0;
}

#else

// Nothing attaches them: go_program.py reads x86-64 programs alone.
int on_goroutine_born(struct pt_regs *ctx) { return 0; }
int on_round_trip(struct pt_regs *ctx) { return 0; }
int on_connection_write(struct pt_regs *ctx) { return 0; }
int on_request_handled(struct pt_regs *ctx) { return 0; }

#endif
