// Promises of Node: what goes on behind an `await` or in `then` has no number, so it is followed from where it is asked
// for to where it runs. Uprobes within V8's own builtins, at places that probe/node_program.py has found: never a
// return probe, for V8 walks the addresses that functions return to.
//
// What is asked for is known by the promise that is to be fulfilled with what the handler returns; where there is none,
// by either handler, which an `await` makes for itself alone. All at their addresses: at the end of each garbage
// collection these are taken to where the objects are now. Whatever is asked for takes the place of what was known by
// the same address: that one is gone.

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

// The key of the reaction in hand. `handler` 0: it is known by its result alone.
static __always_inline struct node_reaction_key *key_of(struct node_promises *now, u64 handler, u64 result) {
  struct node_reaction_key *key = &now->jobs->key;
  key->process = now->thread->process;
  key->handler = handler;
  key->result = result;
  return key;
}

static __always_inline void forget_reaction(struct node_promises *now, struct node_reaction *reaction) {
  node_reactions.delete(key_of(now, reaction->handler, reaction->result));
  if (reaction->rejected) node_reactions.delete(key_of(now, reaction->rejected, reaction->result));
  reaction->is_used = 0;
}

// 0: there is none.
static __always_inline struct node_reaction *find_reaction(struct node_promises *now, u64 handler, u64 result) {
  u32 *known = node_reactions.lookup(key_of(now, handler, result));
  if (!known) return 0;
  struct node_reaction *reaction = reaction_at(now->jobs, *known);
  int is_it = reaction->is_used && reaction->result == result &&
              (reaction->handler == handler || (handler && reaction->rejected == handler));
  return is_it ? reaction : 0;
}

static __always_inline void forget_known_by(struct node_promises *now, u64 handler, u64 result) {
  struct node_reaction *reaction = find_reaction(now, handler, result);
  if (reaction) forget_reaction(now, reaction);
}

// A place for one more. What is never to run keeps its place until its request has been answered: then it would be
// nobody's.
static __always_inline struct node_reaction *place_for_reaction(struct node_promises *now) {
  struct node_jobs *jobs = now->jobs;
#pragma unroll
  for (int i = 0; i < 8; i++) {
    jobs->next++;
    struct node_reaction *reaction = reaction_at(jobs, jobs->next);
    if (!reaction->is_used) return reaction;
    if (is_unanswered(&reaction->owner)) continue;
    forget_reaction(now, reaction);
    return reaction;
  }
  return 0;
}

// It is to run for `owner`.
static __always_inline void remember_reaction(struct node_promises *now, u64 handler, u64 rejected, u64 result,
                                              const struct owner *owner) {
  struct node_jobs *jobs = now->jobs;
  forget_known_by(now, 0, result);
  if (handler) forget_known_by(now, handler, result);
  if (rejected) forget_known_by(now, rejected, result);
  if (!owner->kind) return;
  struct node_reaction *reaction = place_for_reaction(now);
  if (!reaction) return;  // what it calls has no parent
  reaction->handler = handler;
  reaction->rejected = rejected;
  reaction->result = result;
  reaction->owner = *owner;
  reaction->is_used = 1;
  jobs->place = jobs->next & (NODE_REACTIONS - 1);
  node_reactions.update(key_of(now, handler, result), &jobs->place);
  if (rejected) node_reactions.update(key_of(now, rejected, result), &jobs->place);
}

// It is to run for whom that runs now.
static __always_inline int ask_for_reaction(u64 handler, u64 rejected, u64 result) {
  struct node_promises now;
  struct owner owner;
  if (!find_promises(&now)) return 0;
  find_owner_of_callback(now.thread, &owner);
  if (owner.kind) remember_run(now.thread, &owner);
  remember_reaction(&now, handler, rejected, result, &owner);
  return 0;
}

// Do both begin with the same map, and so are of the same kind?
static __always_inline int are_alike(u64 object, u64 other) {
  u64 map = read_user_word(object - TAGGED);
  return map && map == read_user_word(other - TAGGED);
}

// PerformPromiseThen: an `await`, and `then` where it is compiled. Only the latter makes a promise.
int on_node_then(struct pt_regs *ctx) {
  u64 handler = ctx->bx, rejected = ctx->cx, result = ctx->dx;
  if (are_alike(ctx->ax, result)) handler = rejected = 0;
  return ask_for_reaction(handler, rejected, result);
}

// Promise.prototype.then, shortly before it returns the promise that it has made.
int on_node_then_end(struct pt_regs *ctx) { return ask_for_reaction(0, 0, ctx->ax); }

static __always_inline void take_reaction(struct node_promises *now, u64 handler, u64 result) {
  struct node_reaction *reaction = find_reaction(now, handler, result);
  if (!reaction) reaction = find_reaction(now, 0, result);
  if (!reaction) return;
  now->jobs->owner = reaction->owner;
  forget_reaction(now, reaction);
}

// PromiseFulfillReactionJob, PromiseRejectReactionJob: a handler is about to run.
int on_node_job(struct pt_regs *ctx) {
  struct node_promises now;
  if (!find_promises(&now)) return 0;
  struct node_jobs *jobs = now.jobs;
  close_job(now.thread, jobs);
  own_nothing(&jobs->owner);
  take_reaction(&now, ctx->bx, ctx->cx);
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

// Heap::GarbageCollectionEpilogueInSafepoint. First all that was moved is taken out, then it is put in again: where one
// object is now another one may have been. In pieces of as many as the verifier likes, one after the other.
int on_node_collected(struct pt_regs *ctx) {
  struct node_promises now;
  if (!find_promises(&now)) return 0;
  struct node_jobs *jobs = now.jobs;
  jobs->collected = 0;
  node_tail_programs.call(ctx, 0);
  jobs->is_refused = 1;
  return 0;
}

static __always_inline void take_out_by(struct node_promises *now, struct node_reaction *reaction, u64 handler) {
  struct node_reaction_key *key = key_of(now, handler, reaction->result);
  u32 *known = node_reactions.lookup(key);
  if (!known || reaction_at(now->jobs, *known) != reaction) reaction->is_used = 0;  // somebody else's by now
  else node_reactions.delete(key);
}

static __always_inline void take_out(struct node_promises *now, struct node_reaction *reaction) {
  struct node_reaction *moved = &now->jobs->moved;
  moved->handler = moved_object(now->thread, reaction->handler);
  moved->rejected = moved_object(now->thread, reaction->rejected);
  moved->result = moved_object(now->thread, reaction->result);
  u64 change = (moved->handler ^ reaction->handler) | (moved->rejected ^ reaction->rejected);
  if (!(change | (moved->result ^ reaction->result))) return;
  reaction->is_used = 2;
  take_out_by(now, reaction, reaction->handler);
  if (reaction->rejected) take_out_by(now, reaction, reaction->rejected);
  if (!moved->handler != !reaction->handler || !moved->rejected != !reaction->rejected) reaction->is_used = 0;
  reaction->handler = moved->handler;
  reaction->rejected = moved->rejected;
  reaction->result = moved->result;
}

// What is known there was not moved, so it is no more.
static __always_inline void make_known_by(struct node_promises *now, struct node_reaction *reaction, u64 handler) {
  struct node_reaction_key *key = key_of(now, handler, reaction->result);
  u32 *known = node_reactions.lookup(key);
  if (known) reaction_at(now->jobs, *known)->is_used = 0;
  node_reactions.update(key, &now->jobs->place);
}

static __always_inline void put_in(struct node_promises *now, struct node_reaction *reaction, u32 place) {
  now->jobs->place = place & (NODE_REACTIONS - 1);
  make_known_by(now, reaction, reaction->handler);
  if (reaction->rejected) make_known_by(now, reaction, reaction->rejected);
  reaction->is_used = 1;
}

int on_node_moved(struct pt_regs *ctx) {
  struct node_promises now;
  if (!find_promises(&now)) return 0;
  struct node_jobs *jobs = now.jobs;
  u32 begin = jobs->collected;
  if (begin < NODE_REACTIONS) {
    for (u32 i = 0; i < NODE_REACTIONS_AT_ONCE; i++) {
      struct node_reaction *reaction = reaction_at(jobs, begin + i);
      if (reaction->is_used) take_out(&now, reaction);
    }
  } else {
    for (u32 i = 0; i < NODE_REACTIONS_AT_ONCE; i++) {
      struct node_reaction *reaction = reaction_at(jobs, begin + i);
      if (reaction->is_used == 2) put_in(&now, reaction, begin + i);
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
