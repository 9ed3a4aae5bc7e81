// Goroutines that are started, and those that call: uprobes at instructions that probe/go_program.py has found.

#if defined(__x86_64__)

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
  descend(&inherited);
  set_owner(&born, &inherited, 0);
  return 0;
}

// (*persistConn).roundTrip, in the goroutine that calls. What writes the request to the socket is another one, the
// connection's own, which serves whoever calls on it.
int on_round_trip(struct pt_regs *ctx) {
  u32 pid = current_pid_tid() >> 32;
  struct running running;
  struct owner owner;
  own_nothing(&owner);
  find_goroutine(pid, &running);
  if (running.kind != RUNS_GOROUTINE) {
    struct go_program *program = go_programs.lookup(&pid);
    if (!program) return 0;
    running.identity.process = program->process;
  } else {
    find_owner_of_goroutine(&running, &owner);
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

#endif
