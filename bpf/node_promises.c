// Promises of Node: what goes on behind an `await` or in `then` has no number, so it is followed from where it is asked
// for to where it runs. Uprobes within V8's own builtins, at places that probe/node_program.py has found: never a
// return probe, for V8 walks the addresses that functions return to.
//
// What is asked for is known by the handler and by the promise that is to be fulfilled with what it returns, at their
// addresses; at the end of each garbage collection these are taken to where the objects are now.

#if defined(__x86_64__)

#define TAGGED 1
#define LOWEST_OBJECT 65536

// What was numbered in a job that has ended, and in no other one, was made for the same request.
static __always_inline void close_job(struct node_thread *thread, struct node_jobs *jobs) {
  u64 last = thread->numbers.last, after = jobs->after;
  if (!jobs->is_open || !jobs->owner.kind || jobs_finished(thread, jobs) != jobs->finished + 1) return;
  for (u32 i = 1; i <= MAX_NODE_NUMBERS_OF_JOB; i++) {
    if (after + i > last) break;
    if (!is_called_once(thread, after + i)) continue;
    thread->key.process = thread->process;
    thread->key.address = after + i;
    thread->request.owner = jobs->owner;
    thread->request.owner.number = NUMBER_IN_JOB;
    set_owner(&thread->key, &thread->request.owner, BPF_NOEXIST);  // or it has run by now
  }
}

struct node_promises {
  struct node_program *program;
  struct node_thread *thread;
  struct node_jobs *jobs;
};

static __always_inline int find_promises(struct node_promises *found) {
  u64 pid_tid = current_pid_tid();
  u32 pid = pid_tid >> 32;
  found->program = node_programs.lookup(&pid);
  found->thread = node_threads.lookup(&pid_tid);
  found->jobs = node_jobs.lookup(&pid_tid);
  if (!found->program || !found->thread || !found->jobs || found->jobs->is_refused) return 0;
  return read_numbers(found->thread, found->program);
}

// Where Execution::TryRunMicrotasks(isolate, queue) is called: jobs begin.
int on_node_jobs(struct pt_regs *ctx) {
  u64 pid_tid = current_pid_tid(), queue = PT_REGS_PARM2(ctx);
  u32 zero = 0, pid = pid_tid >> 32;
  struct node_program *program = node_programs.lookup(&pid);
  if (!program || !node_threads.lookup(&pid_tid)) return 0;
  struct node_jobs *jobs = node_jobs.lookup(&pid_tid);
  if (!jobs) {
    struct node_jobs *nothing = no_node_jobs.lookup(&zero);
    if (nothing) node_jobs.update(&pid_tid, nothing);
    jobs = node_jobs.lookup(&pid_tid);
    if (!jobs) {
      program->threads_full++;
      return 0;
    }
  }
  jobs->is_open = 0;
  if (jobs->queue && jobs->queue != queue) {
    jobs->is_refused = 1;  // jobs of one may run within those of the other
    program->queues++;
  }
  jobs->queue = queue;
  return 0;
}

// What runs now is no job that is known.
static __always_inline int leave_job(void) {
  struct node_promises now;
  if (!find_promises(&now)) return 0;
  close_job(now.thread, now.jobs);
  now.jobs->is_open = 0;
  return 0;
}

// And they have ended.
int on_node_jobs_end(struct pt_regs *ctx) { return leave_job(); }

static __always_inline struct node_reaction *reaction_at(struct node_jobs *jobs, u64 index) {
  asm volatile("%0 &= %1" : "+r"(index) : "i"(NODE_REACTIONS - 1));
  return &jobs->reactions[index];
}

// The handler is to run for `owner`.
static __always_inline void remember_reaction(struct node_promises *now, u64 handler, u64 result,
                                              const struct owner *owner) {
  struct node_jobs *jobs = now->jobs;
  struct node_reaction_key *key = &jobs->key;
  key->process = now->thread->process;
  key->handler = handler;
  key->result = result;
  u32 *known = node_reactions.lookup(key);
  if (known) {
    reaction_at(jobs, *known)->is_used = 0;
    node_reactions.delete(key);
  }
  if (!owner->kind) return;
  u32 place = NODE_REACTIONS;
#pragma unroll
  for (int i = 0; i < 8; i++) {
    jobs->next++;
    if (!reaction_at(jobs, jobs->next)->is_used) {
      place = jobs->next & (NODE_REACTIONS - 1);
      break;
    }
  }
  if (place >= NODE_REACTIONS) return;  // what it calls has no parent
  struct node_reaction *reaction = reaction_at(jobs, place);
  reaction->handler = handler;
  reaction->result = result;
  reaction->owner = *owner;
  reaction->is_used = 1;
  jobs->place = place;
  if (node_reactions.update(key, &jobs->place)) reaction->is_used = 0;
}

// It is to run for whom that runs now.
static __always_inline int ask_for_reaction(u64 handler, u64 result) {
  struct node_promises now;
  struct owner owner;
  if (!find_promises(&now)) return 0;
  find_owner_of_callback(now.thread, &owner);
  if (owner.kind) remember_run(now.thread, &owner);
  remember_reaction(&now, handler, result, &owner);
  return 0;
}

// PerformPromiseThen: an `await`, and `then` where it is compiled.
int on_node_then(struct pt_regs *ctx) { return ask_for_reaction(ctx->bx, ctx->dx); }

// Promise.prototype.then, shortly before it returns the promise that it has made.
int on_node_then_end(struct pt_regs *ctx) { return ask_for_reaction(0, ctx->ax); }

static __always_inline void take_reaction(struct node_promises *now, u64 handler, u64 result) {
  struct node_jobs *jobs = now->jobs;
  struct node_reaction_key *key = &jobs->key;
  key->process = now->thread->process;
  key->handler = handler;
  key->result = result;
  u32 *known = node_reactions.lookup(key);
  if (!known) return;
  struct node_reaction *reaction = reaction_at(jobs, *known);
  if (reaction->is_used && reaction->handler == handler && reaction->result == result) jobs->owner = reaction->owner;
  reaction->is_used = 0;
  node_reactions.delete(key);
}

// PromiseFulfillReactionJob, PromiseRejectReactionJob: a handler is about to run.
int on_node_job(struct pt_regs *ctx) {
  struct node_promises now;
  if (!find_promises(&now)) return 0;
  struct node_jobs *jobs = now.jobs;
  close_job(now.thread, jobs);
  own_nothing(&jobs->owner);
  take_reaction(&now, ctx->bx, ctx->cx);
  take_reaction(&now, 0, ctx->cx);
  jobs->after = now.thread->numbers.last;
  jobs->finished = jobs_finished(now.thread, jobs);
  jobs->is_open = !now.thread->numbers.runs;
  return 0;
}

// PromiseResolveThenableJob: a promise takes over what another one will become. Of what a program's own `then` does in
// it, nobody knows for whom.
int on_node_other_job(struct pt_regs *ctx) { return leave_job(); }

// Where the object at this address is after a collection; 0: nowhere that is known. What was moved has left the new
// address where it was, in place of its map, which is tagged.
static __always_inline u64 moved_object(struct node_thread *thread, u64 object) {
  if (!(object & TAGGED) || object < LOWEST_OBJECT) return object;
  u64 word = read_node_word(thread, object - TAGGED);
  if (!word) return 0;
  return word & TAGGED ? object : word | TAGGED;
}

// Heap::GarbageCollectionEpilogue. First all that was moved is taken out, then it is put in again: where one object is
// now another one may have been. In pieces of as many as the verifier likes, one after the other.
int on_node_collected(struct pt_regs *ctx) {
  struct node_promises now;
  if (!find_promises(&now)) return 0;
  struct node_jobs *jobs = now.jobs;
  jobs->collected = 0;
  node_tail_programs.call(ctx, 0);
  jobs->is_refused = 1;
  return 0;
}

int on_node_moved(struct pt_regs *ctx) {
  struct node_promises now;
  if (!find_promises(&now)) return 0;
  struct node_jobs *jobs = now.jobs;
  struct node_reaction_key *key = &jobs->key;
  key->process = now.thread->process;
  u32 begin = jobs->collected;
  for (u32 i = 0; i < NODE_REACTIONS_AT_ONCE; i++) {
    struct node_reaction *reaction = reaction_at(jobs, begin + i);
    if (begin < NODE_REACTIONS) {
      if (!reaction->is_used) continue;
      key->handler = reaction->handler;
      key->result = reaction->result;
      reaction->handler = moved_object(now.thread, key->handler);
      reaction->result = moved_object(now.thread, key->result);
      if (reaction->handler == key->handler && reaction->result == key->result) continue;
      node_reactions.delete(key);
      int is_gone = (key->handler && !reaction->handler) || !reaction->result;
      reaction->is_used = is_gone ? 0 : 2;
    } else {
      if (reaction->is_used != 2) continue;
      key->handler = reaction->handler;
      key->result = reaction->result;
      jobs->place = (begin + i) & (NODE_REACTIONS - 1);
      reaction->is_used = node_reactions.update(key, &jobs->place) ? 0 : 1;
    }
  }
  jobs->collected = begin + NODE_REACTIONS_AT_ONCE;
  if (jobs->collected < 2 * NODE_REACTIONS) {
    node_tail_programs.call(ctx, 0);
    jobs->is_refused = 1;
  }
  return 0;
}

#else

int on_node_jobs(struct pt_regs *ctx) { return 0; }
int on_node_jobs_end(struct pt_regs *ctx) { return 0; }
int on_node_then(struct pt_regs *ctx) { return 0; }
int on_node_then_end(struct pt_regs *ctx) { return 0; }
int on_node_job(struct pt_regs *ctx) { return 0; }
int on_node_other_job(struct pt_regs *ctx) { return 0; }
int on_node_collected(struct pt_regs *ctx) { return 0; }
int on_node_moved(struct pt_regs *ctx) { return 0; }

#endif
