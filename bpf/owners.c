// Which request is worked on here and now? So which one an outgoing request belongs to, of whatever runtime: what runs
// now says a fragment for each runtime, and whose work it is say these tables. A wrong answer is worse than none: what
// is not certain belongs to nobody.

static __always_inline void *owners_in_place(void) {
  int zero = 0;
  return owner_map.lookup(&zero);
}

// Whose work is done in this context, or by this goroutine or callback; 0: it is not known to be anybody's.
static __always_inline struct owner *owner_of(const struct identity *identity) {
  void *inside = owners_in_place();
  return inside ? bpf_map_lookup_elem(inside, (void *)identity) : 0;
}

static __always_inline void disown(const struct identity *identity) {
  void *inside = owners_in_place();
  if (inside) bpf_map_delete_elem(inside, (void *)identity);
}

// From now on. `flags`: BPF_NOEXIST leaves it to the one that it has.
static __always_inline void set_owner(const struct identity *identity, const struct owner *owner, u64 flags) {
  void *inside = owners_in_place();
  if (inside && bpf_map_update_elem(inside, (void *)identity, (void *)owner, flags) && !flags)
    bpf_map_delete_elem(inside, (void *)identity);
}

static __always_inline void own_nothing(struct owner *owner) { __builtin_memset(owner, 0, sizeof(*owner)); }

static __always_inline void own_exchange(struct owner *owner, u64 sock, u64 connection, u32 position, u8 evidence) {
  owner->sock = sock;
  owner->connection = connection;
  owner->position = position;
  owner->kind = OWNER_EXCHANGE;
  owner->lineage = 0;
  owner->evidence = evidence;
  owner->number = NUMBER_OF_OTHERS;
}

// It works for any request of that connection, behind their answers too.
static __always_inline void own_connection(struct owner *owner, u64 sock, u64 connection) {
  own_exchange(owner, sock, connection, 0, LINK_HANDLER);
  owner->kind = OWNER_CONNECTION;
  owner->lineage = 2;
}

// What is made by one that has an owner works for that as well, as far as is known.
static __always_inline void descend(struct owner *owner) {
  if (owner->lineage < 2) owner->lineage++;
}

static __always_inline struct connection *connection_of_owner(const struct owner *owner) {
  u64 sock = owner->sock;
  struct connection *connection = connections.lookup(&sock);
  return connection && connection->id == owner->connection ? connection : 0;
}

// By what has read the request itself.
static __always_inline void count_child(const struct owner *owner) {
  if (owner->kind != OWNER_EXCHANGE || owner->lineage) return;
  struct connection *connection = connection_of_owner(owner);
  if (connection && connection->position == owner->position && connection->children < 255) connection->children++;
}

// Of requests that came before the answer to the one before, nothing tells which is worked on.
static __always_inline int is_pipelined(const struct connection *connection) {
  return connection->flags & (CONNECTION_PIPELINED | CONNECTION_HAS_PIPELINED);
}

// Begun, and not seen to have ended.
static __always_inline int is_in_hand(const struct connection *connection, u32 position) {
  if (!connection || connection->position != position || is_pipelined(connection)) return 0;
  if (connection->state == STATE_RESPONSE) return connection->chunks[RESPONSE_CHUNKS].state < CHUNKS_ENDED;
  return connection->state == STATE_REQUEST;
}

// What a thread that works on one request at a time has in hand.
static __always_inline void find_owner_of_thread(u64 pid_tid, int is_plain, struct owner *found) {
  struct thread *thread = threads.lookup(&pid_tid);
  if (!thread || thread->flags || thread->marked || thread->owner.kind != OWNER_EXCHANGE) return;
  if (!is_plain && thread->owner.evidence != LINK_PROCESS) return;
  if (thread->owner.evidence == LINK_EXECUTOR) {
    *found = thread->owner;  // whatever became of the request meanwhile
    return;
  }
  if (is_in_hand(connection_of_owner(&thread->owner), thread->owner.position)) *found = thread->owner;
}

// Of what a goroutine or a callback has in hand: nothing has been answered yet.
static __always_inline int is_unanswered(const struct owner *owner) {
  struct connection *connection = connection_of_owner(owner);
  return connection && connection->position == owner->position && connection->state == STATE_REQUEST;
}

// One more request is told of under which goroutines with this function have called.
static __always_inline void note_trial(struct go_trial *trial, const struct connection *connection, u64 now) {
  if (!trial->believed_from_monotonic_ns) trial->believed_from_monotonic_ns = now + GO_START_AGE_NS;
  u64 read_monotonic_ns = connection->request_last_monotonic_ns;
  if (read_monotonic_ns <= trial->newest_monotonic_ns) return;
  trial->newest_monotonic_ns = read_monotonic_ns;
  trial->requests++;
}

static __always_inline int is_stood(const struct go_trial *trial, u64 now) {
  return trial->requests >= GO_START_REQUESTS && now >= trial->believed_from_monotonic_ns;
}

// Is a goroutine that a request has started sure to work for that? One of a pool looks the same at first, but it goes
// on to call when its request has long been answered, and one request has started all of its kind. So a function is
// believed once several requests, one after the other, have started goroutines with it that called, and for a while
// none of these was late; never again once one was. Workers that each request starts anew may take up what others have
// left to do, and then only those that were started beside another request show it: so what is true of requests that
// are alone is not believed of others. Where the connection is gone it may be the client that was early: then it has
// to be known anew.
static __always_inline int works_for_one_request(const struct running *running, const struct owner *owner) {
  struct identity function = {running->identity.process, running->start};
  u64 now = bpf_ktime_get_ns();
  struct go_start *known = go_starts.lookup(&function);
  if (!known) {
    struct go_start fresh = {};
    go_starts.update(&function, &fresh);
    known = go_starts.lookup(&function);
    if (!known) return 0;
  }
  struct connection *connection = connection_of_owner(owner);
  if (!connection || connection->state == STATE_IDLE) {
    known->any.requests = 0;
    known->any.believed_from_monotonic_ns = now + GO_START_DOUBT_NS;
    return 0;
  }
  if (!is_unanswered(owner)) {
    known->is_worker = 1;
    return 0;
  }
  int is_beside = connection->beside == (u16)(owner->position + 1);
  note_trial(&known->any, connection, now);
  if (is_beside) note_trial(&known->beside, connection, now);
  return !known->is_worker && is_stood(&known->any, now) && (!is_beside || is_stood(&known->beside, now));
}

// It calls for a request, by the context that it was given. Should another one have started it, it is a worker.
static __always_inline void note_worker(const struct running *running, const struct owner *called_for) {
  struct identity function = {running->identity.process, running->start};
  struct owner *owner = owner_of(&running->identity);
  if (!owner || owner->kind != OWNER_EXCHANGE) return;
  if (owner->connection == called_for->connection && owner->position == called_for->position) return;
  struct go_start *known = go_starts.lookup(&function);
  if (known) known->is_worker = 1;
}

// Whose work a goroutine does by itself: that of the request that it has read, or that has started it.
static __always_inline void find_owner_of_goroutine(const struct running *running, struct owner *found) {
  struct owner *owner = owner_of(&running->identity);
  if (!owner || owner->kind != OWNER_EXCHANGE) return;
  if (owner->lineage && !works_for_one_request(running, owner)) return;
  struct connection *connection = connection_of_owner(owner);
  if (connection && connection->state != STATE_FOREIGN) *found = *owner;
}

// What a goroutine sends: on a connection of net/http's client, for whom roundTrip was called last; else its own.
static __always_inline void find_owner_of_write(u32 pid, struct owner *found) {
  struct running running;
  find_goroutine(pid, &running);
  if (running.kind != RUNS_GOROUTINE) return;
  u64 *written_for = go_writers.lookup(&running.identity);
  if (!written_for) {
    find_owner_of_goroutine(&running, found);
    return;
  }
  struct identity connection = {running.identity.process, *written_for};
  struct owner *owner = go_requests.lookup(&connection);
  if (!owner) return;
  *found = *owner;
  go_requests.delete(&connection);
}

// A context, greenlet or goroutine has read a request.
static __always_inline void own_by_identity(struct identity *identity, struct owner *owner) {
  struct owner *before = owner_of(identity);
  if (before) {
    if (before->kind == OWNER_AMBIGUOUS) return;
    int is_another = before->kind == OWNER_EXCHANGE && before->connection != owner->connection && !before->lineage;
    if (is_another && is_unanswered(before)) owner->kind = OWNER_AMBIGUOUS;  // an event loop
  }
  set_owner(identity, owner, 0);
}

// A goroutine has read a request: it serves that until it reads another one. The first byte alone says nothing:
// net/http reads it while the handler of the request before may be at work, in a goroutine of its own.
static __always_inline void own_by_goroutine(u32 pid, struct owner *owner) {
  struct running running;
  find_goroutine(pid, &running);
  if (running.kind != RUNS_GOROUTINE) return;
  owner->evidence = LINK_GOROUTINE;
  own_by_identity(&running.identity, owner);
}

// A thread has read a request, outside of anything that its runtime tells apart.
static __always_inline void own_by_thread(u64 pid_tid, const struct owner *owner) {
  struct thread now = {*owner, 0, 0, 0};
  struct thread *before = threads.lookup(&pid_tid);
  if (before) {
    struct connection *other = connection_of_owner(&before->owner);
    int is_another = other && before->owner.connection != owner->connection && before->owner.kind == OWNER_EXCHANGE;
    int is_unanswered = other && other->position == before->owner.position && other->state == STATE_REQUEST;
    if (is_another && is_unanswered && before->owner.evidence == LINK_THREAD) before->flags |= THREAD_IS_AMBIGUOUS;
    now.flags = before->flags & THREAD_IS_AMBIGUOUS;
  }
  if (threads.update(&pid_tid, &now)) threads.delete(&pid_tid);
}

// Who owns what runs in this context: as it is marked for now, or for as long as there is such a context.
static __always_inline struct owner *owner_of_context(u64 pid_tid, struct identity *identity) {
  struct thread *thread = threads.lookup(&pid_tid);
  if (thread && thread->marked && thread->marked == identity->address) return &thread->owner;
  return owner_of(identity);
}

// uvloop runs what belongs to different connections in one context, their server's: such a context has an owner from
// what tells of a connection until the thread enters another context. One that has an owner works on for that; where
// it is the same connection's, what was read says more.
static __always_inline void mark_context(u64 pid_tid, struct identity *identity, const struct owner *owner) {
  struct owner *before = owner_of_context(pid_tid, identity);
  int is_the_same = before && before->kind != OWNER_AMBIGUOUS && before->connection == owner->connection;
  if (is_the_same && owner->kind == OWNER_CONNECTION) return;
  before = owner_of(identity);
  if (before && !is_the_same) return;
  struct thread now = {*owner, identity->address, 0, 0};
  threads.update(&pid_tid, &now);
}

static __always_inline void unmark_context(struct thread *thread) {
  if (thread->marked) thread->owner.kind = OWNER_NOBODY;
  thread->marked = 0;
}

// select() on no descriptors: time.sleep of Python before 3.11.
static __always_inline int is_sleep(u64 descriptors) { return !(u32)descriptors; }

// A thread waits for whatever comes next, as event loops do: what it does then need not be for what it has read before.
static __always_inline void on_event_wait(u64 pid_tid) {
  struct thread *thread = threads.lookup(&pid_tid);
  if (!thread || thread->owner.evidence == LINK_PROCESS) return;
  unmark_context(thread);
  if (thread->owner.evidence != LINK_EXECUTOR) thread->owner.kind = OWNER_NOBODY;
  thread->flags &= ~THREAD_HAS_READ;
}

// What a connection stands for is the exchange that it has.
static __always_inline void take_exchange(struct owner *owner) {
  struct connection *connection = connection_of_owner(owner);
  if (!connection || is_pipelined(connection)) {
    owner->kind = OWNER_NOBODY;
  } else if (is_exchange_open(connection)) {
    owner->position = connection->position;
    owner->kind = OWNER_EXCHANGE;
    if (!owner->position) owner->evidence = LINK_CONTEXT;  // there was none before
  }
}

// Leaves in `found` whose work is done now: an exchange's, or a connection's that has none yet.
static __always_inline void find_owner(u64 pid_tid, struct owner *found) {
  struct running running;
  u32 pid = pid_tid >> 32;
  own_nothing(found);
  struct target *target = targets.lookup(&pid);
  if (!target) return;
  if (target->flags & TARGET_IS_GO) find_owner_of_write(pid, found);
  find_running(pid, target->flags & TARGET_WITHOUT_RETURN_PROBES, &running);
  if (found->kind == OWNER_EXCHANGE) {
    // a goroutine's
  } else if (running.kind == RUNS_CONTEXT || running.kind == RUNS_GREENLET) {
    struct owner *owner = owner_of_context(pid_tid, &running.identity);
    if (owner && owner->kind != OWNER_AMBIGUOUS) *found = *owner;
  } else {
    find_owner_of_thread(pid_tid, running.kind == RUNS_THREAD, found);
  }
  if (found->kind == OWNER_CONNECTION) take_exchange(found);
  if (found->kind != OWNER_EXCHANGE) return;
  struct connection *connection = connection_of_owner(found);
  if (connection && is_pipelined(connection)) found->kind = OWNER_NOBODY;
  // What a program does that outlives the request may be for anybody.
  if (found->evidence == LINK_PROCESS && !is_in_hand(connection, found->position)) found->kind = OWNER_NOBODY;
}

// The event loop has read a request, in no context; or what it has decrypted was read in the one that is shared.
static __always_inline void own_outside(u64 pid_tid, struct running *running, const struct owner *owner) {
  if (running->kind == RUNS_CONTEXT) {
    mark_context(pid_tid, &running->identity, owner);
    return;
  }
  struct thread now = {*owner, 0, THREAD_HAS_READ, 0};
  threads.update(&pid_tid, &now);
}

// A request was received: it is owned by what runs now. `is_beginning`: these are its first bytes, `bytes` of them.
static __always_inline void own_by_running(const struct connection *connection, u64 sock, u64 pid_tid, int is_beginning,
                                           u64 bytes) {
  struct owner owner;
  struct running running;
  u32 pid = pid_tid >> 32;
  struct target *target = targets.lookup(&pid);
  if (!target || !(target->flags & (TARGET_IS_PYTHON | TARGET_IS_GO))) return;
  own_exchange(&owner, sock, connection->id, connection->position, LINK_CONTEXT);
  if (target->flags & TARGET_IS_GO) {
    if (bytes != 1) own_by_goroutine(pid, &owner);
    return;
  }
  if (!is_beginning) return;
  find_running(pid, target->flags & TARGET_WITHOUT_RETURN_PROBES, &running);
  if (target->flags & TARGET_READS_OUTSIDE && running.kind != RUNS_UNKNOWN) {
    own_outside(pid_tid, &running, &owner);
  } else if (running.kind == RUNS_CONTEXT || running.kind == RUNS_GREENLET) {
    if (running.kind == RUNS_GREENLET) owner.evidence = LINK_GREENLET;
    own_by_identity(&running.identity, &owner);
  } else if (running.kind == RUNS_THREAD) {
    owner.evidence = LINK_THREAD;
    own_by_thread(pid_tid, &owner);
  } else {
    threads.delete(&pid_tid);  // it has another request by now
  }
}

// A client has sent a part of its handshake, which an event loop has read outside of any context: with the last part
// the connection's own code begins.
static __always_inline void own_by_handshake(struct scratch *scratch_area) {
  u64 sock = scratch_area->sock, pid_tid = current_pid_tid();
  u32 pid = pid_tid >> 32;
  struct target *target = targets.lookup(&pid);
  struct connection *connection = connections.lookup(&sock);
  if (!target || !connection || !(target->flags & TARGET_READS_OUTSIDE) || connection->role != ROLE_SERVER) return;
  struct running running;
  find_running(pid, target->flags & TARGET_WITHOUT_RETURN_PROBES, &running);
  if (running.kind != RUNS_THREAD) return;
  struct owner owner;
  own_connection(&owner, sock, connection->id);
  own_outside(pid_tid, &running, &owner);
}

// A connection was accepted: what this context starts now works for that. Of a thread that accepts and then serves,
// what it reads will tell.
static __always_inline void on_accepted(const struct connection *connection, u64 sock, u64 pid_tid) {
  struct running running;
  find_running(pid_tid >> 32, 1, &running);
  if (running.kind != RUNS_CONTEXT) return;
  struct owner *before = owner_of(&running.identity);
  if (before && (before->kind == OWNER_EXCHANGE || before->kind == OWNER_AMBIGUOUS)) return;
  struct owner owner;
  own_connection(&owner, sock, connection->id);
  set_owner(&running.identity, &owner, 0);
}

static __always_inline void on_nothing_accepted(u64 pid_tid) {
  struct running running;
  find_running(pid_tid >> 32, 1, &running);
  if (running.kind != RUNS_CONTEXT) return;
  struct owner *before = owner_of(&running.identity);
  if (before && before->kind == OWNER_CONNECTION) disown(&running.identity);
}

// An option of a connection is set, or its addresses are asked for, as it is made: whose turn it is in the context that
// connections share. uvloop does the latter shortly before it tells of a new one.
static __always_inline void on_socket_named(u32 descriptor, u64 pid_tid) {
  u64 sock = socket_of_descriptor(descriptor);
  struct connection *connection = sock ? connections.lookup(&sock) : 0;
  if (!connection || connection->role != ROLE_SERVER) return;
  struct running running;
  struct owner owner;
  find_running(pid_tid >> 32, 1, &running);
  if (running.kind != RUNS_CONTEXT) return;
  own_connection(&owner, sock, connection->id);
  mark_context(pid_tid, &running.identity, &owner);
}

// A context that was made by what has read the request that this connection has.
static __always_inline int is_child_of(const struct connection *connection, const struct owner *owner) {
  return owner->connection == connection->id && owner->position == connection->position && owner->lineage == 1 &&
         owner->evidence == LINK_CONTEXT;
}

// Where whatever answers was made by what had read the request, that works on none itself, and what it makes handles
// one. What that makes may be a worker for all. Should the server's own code start one beside, it makes one context
// more. In another thread such a worker might call before the others are made.
static __always_inline int is_handler(struct scratch *scratch_area, const struct owner *owner, u64 pid_tid) {
  struct connection *connection = connection_of_owner(owner);
  if (!connection || !is_child_of(connection, owner) || connection->tid != (u32)pid_tid) return 0;
  struct interpreter *interpreter = interpreters.lookup(&connection->pid);
  if (!interpreter) return 0;
  struct identity *server = &scratch_area->running.identity;
  server->process = interpreter->process;
  server->address = connection->local_port;
  struct responder *known = responders.lookup(server);
  return known && known->count >= RESPONDERS_ALIKE && known->children == connection->children;
}

// A response has begun.
static __always_inline void note_responder(struct scratch *scratch_area) {
  struct connection *connection = connections.lookup(&scratch_area->sock);
  struct running *running = &scratch_area->running;
  find_context(current_pid_tid() >> 32, running);
  if (!connection || !running->identity.process) return;
  struct responder now = {0, 1};
  struct owner *owner = owner_of(&running->identity);
  if (owner && is_child_of(connection, owner)) now.children = connection->children;
  running->identity.address = connection->local_port;
  struct responder *known = responders.lookup(&running->identity);
  if (known && known->children == now.children) known->count++;
  else responders.update(&running->identity, &now);
}

// A request has begun on this connection; or its first byte had come alone, and these follow it.
static __always_inline void on_request_head(struct scratch *scratch_area, struct connection *connection, u64 pid_tid,
                                            int is_beginning, u64 bytes) {
  if (connection->role != ROLE_CLIENT) {
    own_by_running(connection, scratch_area->sock, pid_tid, is_beginning, bytes);
    return;
  }
  if (!is_beginning) return;
  struct owner owner;
  find_owner(pid_tid, &owner);
  if (owner.kind != OWNER_EXCHANGE) return;
  connection->parent_connection = owner.connection;
  connection->parent_position = owner.position;
  connection->parent_evidence = owner.evidence;
  connection->parent_may_err = owner.lineage && !is_handler(scratch_area, &owner, pid_tid);
}

// A process has been started, by this thread: what it runs is this one's work once that is another program. One that
// goes on with its parent's may be a worker that lives on.
static __always_inline void inherit_owner(u64 parent_pid_tid, u64 child_pid_tid) {
  struct thread child = {};
  find_owner(parent_pid_tid, &child.owner);
  if (child.owner.kind != OWNER_EXCHANGE) return;
  child.owner.evidence = LINK_PROCESS;
  child.flags = THREAD_IS_BEFORE_EXEC;
  threads.update(&child_pid_tid, &child);
}

// The process runs another program from now on.
static __always_inline void begin_program(u64 pid_tid) {
  struct thread *thread = threads.lookup(&pid_tid);
  if (!thread) return;
  if (thread->flags & THREAD_IS_BEFORE_EXEC) thread->flags &= ~THREAD_IS_BEFORE_EXEC;
  else threads.delete(&pid_tid);
}

static __always_inline u32 target_flags(u64 pid_tid) {
  u32 pid = pid_tid >> 32;
  struct target *target = targets.lookup(&pid);
  return target ? target->flags : 0;
}

static __always_inline int runs_node(u64 pid_tid) { return target_flags(pid_tid) & TARGET_IS_NODE; }

// Of a request that begins on this connection: see beginnings.c.
static __always_inline int has_program_of_its_own(const struct connection *connection, u64 pid_tid) {
  u32 flags = target_flags(pid_tid);
  return flags & TARGET_IS_NODE || (flags & TARGET_IS_NGINX && connection->role == ROLE_CLIENT);
}
