// Whose request is worked on in a thread of Node; see node.c for what runs in it.

// For whom the job of a promise runs, or what was numbered in it by `number`; 0: the job itself. Only the job that was
// seen to begin counts, while it runs; and of numbers, until another job has ended behind it.
static __always_inline struct owner *owner_of_job(struct node_thread *thread, u64 number) {
  struct node_jobs *jobs = node_jobs.lookup(&thread->pid_tid);
  if (!jobs || !jobs->is_open || jobs->is_refused || !jobs->owner.kind) return 0;
  u64 finished = jobs_finished(thread, jobs);
  if (number ? number <= jobs->after || finished > jobs->finished + 1 : finished != jobs->finished) return 0;
  return &jobs->owner;
}

// Whose work the callback of Node does that runs. The parser of a server's connection runs for the request that it has
// in hand, and what was made under it since that was read works for the same; what was made under another callback, for
// whom that was seen to run. What calls back again and again works for nobody that is known, nor does anything once the
// request has been answered: what goes on then may be for others.
static __always_inline void find_owner_of_callback(struct node_thread *thread, struct owner *found) {
  const struct node_numbers *numbers = &thread->numbers;
  struct owner *owner = 0;
  own_nothing(found);
  if (!numbers->runs) {
    owner = owner_of_job(thread, 0);
    if (owner && is_unanswered(owner)) *found = *owner;
    return;
  }
  thread->key.process = thread->process;
  thread->key.address = numbers->runs;
  struct node_request *request = node_requests.lookup(&thread->key);
  if (request) {
    owner = &request->owner;
  } else {
    if (!is_called_once(thread, numbers->runs)) return;
    owner = owner_of(&thread->key);
    if (owner && owner->number != NUMBER_HAS_RUN && (owner->number != NUMBER_IN_JOB || numbers->under)) owner = 0;
    if (!owner && !numbers->under) owner = owner_of_job(thread, numbers->runs);
    if (!owner && numbers->under) {
      thread->key.address = numbers->under;
      request = node_requests.lookup(&thread->key);
      if (request) owner = numbers->runs > request->after ? &request->owner : 0;
      else owner = owner_of(&thread->key);
      if (!request && owner && (owner->number != NUMBER_HAS_RUN || has_hooks(thread))) owner = 0;
    }
  }
  if (owner && is_unanswered(owner)) *found = *owner;
}

// A callback has run for this request: so does what is made under it.
static __always_inline void remember_run(struct node_thread *thread, const struct owner *owner) {
  thread->key.process = thread->process;
  thread->key.address = thread->numbers.runs;
  if (!thread->numbers.runs || node_requests.lookup(&thread->key)) return;
  struct owner *known = owner_of(&thread->key);
  if (known && known->number == NUMBER_HAS_RUN) return;
  thread->request.owner = *owner;
  thread->request.owner.number = NUMBER_HAS_RUN;
  set_owner(&thread->key, &thread->request.owner, 0);
}

// For whom what has this number was made.
static __always_inline int is_made_for(struct node_thread *thread, u64 number, struct owner *found) {
  thread->key.process = thread->process;
  thread->key.address = number;
  struct owner *owner = owner_of(&thread->key);
  if (!owner || owner->number != NUMBER_WAS_MADE || !is_unanswered(owner)) return 0;
  *found = *owner;
  return 1;
}

// The first request on a connection, written as that has been made, is sent for whom the callback was made that says
// so; or, where a name had to be looked up before, for whom the socket was, under which that callback was made.
static __always_inline void find_owner_in_node(u64 pid_tid, const struct connection *connection, struct owner *found) {
  u32 pid = pid_tid >> 32;
  struct node_program *program = node_programs.lookup(&pid);
  struct node_thread *thread = node_threads.lookup(&pid_tid);
  if (!program || !thread || !read_numbers(thread, program)) return;
  find_owner_of_callback(thread, found);
  if (found->kind || (s32)connection->position > 0 || !connection->connect_number) return;
  if (thread->numbers.runs != connection->connect_number) return;
  if (!is_made_for(thread, thread->numbers.runs, found)) is_made_for(thread, thread->numbers.under, found);
}

// A parser of Node's has been given a request.
static __always_inline void own_by_parser(u64 pid_tid, u64 sock, const struct connection *connection) {
  u32 pid = pid_tid >> 32;
  struct node_program *program = node_programs.lookup(&pid);
  struct node_thread *thread = node_threads.lookup(&pid_tid);
  if (!program || !thread || !read_numbers(thread, program)) return;
  u32 descriptor = descriptor_in_hand(connection);
  if (connection->flags & CONNECTION_TLS && socket_of_descriptor(descriptor) != sock) return;  // it is another's by now
  thread->key.process = thread->process;
  thread->key.address = number_of_parser(program, thread, descriptor);
  if (!thread->key.address) return;
  struct node_request *request = &thread->request;
  own_exchange(&request->owner, sock, connection->id, connection->position, LINK_CALLBACK);
  request->after = thread->numbers.last;
  if (node_requests.update(&thread->key, request)) node_requests.delete(&thread->key);
}

// TLS was asked to send a request, and cannot yet: what it sends first, later, is that. A further one waits for it.
static __always_inline void remember_asker(u64 pid_tid, struct connection *connection) {
  if (connection->asked_by.kind) return;
  struct owner owner;
  own_nothing(&owner);
  find_owner_in_node(pid_tid, connection, &owner);
  if (!owner.kind) owner.kind = OWNER_AMBIGUOUS;
  connection->asked_by = owner;
}

// For whom a request is sent.
static __always_inline void find_sender(u64 pid_tid, struct connection *connection, struct owner *found) {
  own_nothing(found);
  if (!connection->asked_by.kind) find_owner_in_node(pid_tid, connection, found);
  else if (connection->asked_by.kind == OWNER_EXCHANGE && is_unanswered(&connection->asked_by))
    *found = connection->asked_by;
  connection->asked_by.kind = OWNER_NOBODY;
  if (!found->kind) find_owner(pid_tid, found);  // of one that was started under a request
}

// A request has begun: of a server, its parser is given it; of a client, something has sent it.
static __always_inline void own_in_node(struct scratch *scratch_area, struct connection *connection, u64 pid_tid) {
  if (!scratch_area->call.bytes) {
    remember_asker(pid_tid, connection);
    return;
  }
  if (connection->role != ROLE_CLIENT) {
    own_by_parser(pid_tid, scratch_area->sock, connection);
    return;
  }
  struct owner owner;
  find_sender(pid_tid, connection, &owner);
  if (owner.kind != OWNER_EXCHANGE) return;
  connection->parent_connection = owner.connection;
  connection->parent_position = owner.position;
  connection->parent_evidence = owner.evidence;
}
