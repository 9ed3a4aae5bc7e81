// What hooks on sockets go on with, by tail_programs: programs of their own, for the verifier has a bound for each.
// Those on TLS libraries have their own ones.

int on_heads(struct bpf_raw_tracepoint_args *ctx) {
  u32 zero = 0;
  struct scratch *scratch_area = scratch.lookup(&zero);
  if (!scratch_area) return 0;
  enum go_on go_on = read_head(scratch_area);
  if (go_on == GO_ON_WITH_HEADS) tail_programs.call(ctx, TAIL_HEADS);
  if (go_on == GO_ON_WITH_CHUNKS) tail_programs.call(ctx, TAIL_CHUNKS);
  return 0;
}

// With a message whose body may be chunked.
int on_chunks(struct bpf_raw_tracepoint_args *ctx) {
  u32 zero = 0;
  struct scratch *scratch_area = scratch.lookup(&zero);
  if (!scratch_area) return 0;
  enum go_on go_on = read_chunks(scratch_area);
  if (go_on == GO_ON_WITH_CHUNKS) tail_programs.call(ctx, TAIL_CHUNKS);
  if (go_on == GO_ON_WITH_HEADS) tail_programs.call(ctx, TAIL_HEADS);
  return 0;
}

// With a response of CPython's that begins, and with what comes before the first request of TLS.
int on_owners(struct bpf_raw_tracepoint_args *ctx) {
  u32 zero = 0;
  struct scratch *scratch_area = scratch.lookup(&zero);
  if (!scratch_area) return 0;
  if (scratch_area->for_owners == FOR_OWNERS_HANDSHAKE) {
    own_by_handshake(scratch_area);
    return 0;
  }
  note_responder(scratch_area);
  if (scratch_area->go_on == GO_ON_WITH_CHUNKS) tail_programs.call(ctx, TAIL_CHUNKS);
  if (scratch_area->go_on == GO_ON_WITH_HEADS) tail_programs.call(ctx, TAIL_HEADS);
  return 0;
}

// With a request that begins, of a Node program or sent by nginx.
int on_beginning(struct bpf_raw_tracepoint_args *ctx) {
  u32 zero = 0;
  struct scratch *scratch_area = scratch.lookup(&zero);
  if (!scratch_area) return 0;
  enum go_on go_on = begin_request(scratch_area, current_pid_tid());
  if (go_on == GO_ON_WITH_HEADS) tail_programs.call(ctx, TAIL_HEADS);
  if (go_on == GO_ON_WITH_CHUNKS) tail_programs.call(ctx, TAIL_CHUNKS);
  return 0;
}
