// Which name a process asked for, before it connected to one of the answers; see lookup_calls.c for what it asked.
//
// A lookup is told with the connection that was made to one of its addresses: by the thread that asked, or by another
// one of its process while that address has come in one lookup alone. Of each address one connection is told, and a
// second one if the first may have been somebody else's: user space then takes it back. A lookup that no connection
// follows is not told.

// A socket of IPv6 may be connected to an answer of IPv4, as ::ffff:a.b.c.d.
static __always_inline struct answer_key answer_key(u64 pid_tid, u16 family, const u8 *address) {
  struct answer_key key = {pid_tid, family, {0}};
  u64 first = 0;
  u32 third = 0;
  __builtin_memcpy(&first, address, 8);
  __builtin_memcpy(&third, address + 8, 4);
  if (family == AF_INET6 && !first && third == 0xffff0000) {
    key.family = AF_INET;
    __builtin_memcpy(key.address, address + 12, 4);
  } else {
    __builtin_memcpy(key.address, address, 16);
  }
  return key;
}

static __always_inline struct claim_key claim_key(const struct answer *answer, const struct answer_key *key) {
  struct claim_key claim = {answer->pid_tid, answer->at_monotonic_ns, key->family, {0}};
  __builtin_memcpy(claim.address, key->address, 16);
  return claim;
}

static __always_inline int may_be_meant(const struct answer *answer, u16 port, u64 now) {
  return answer && now - answer->at_monotonic_ns < MAX_LOOKUP_AGE_NS && (!answer->port || answer->port == port);
}

// Made in the scratch area: on_sys_exit has no stack left for it.
struct lookup_match {
  struct lookup told;
  struct answer_key key;
  struct answer answer;
  struct claim_key claimed;
  struct claim claim;
  u64 former_connection;
};

// Returns 1 when this connection is one to be told of. One claim alone can be the first, whatever runs beside.
static __always_inline int claim_answer(struct lookup_match *match, u64 connection, int is_same_thread) {
  match->claimed = claim_key(&match->answer, &match->key);
  match->claim.connection = connection;
  match->claim.is_final = is_same_thread;
  match->former_connection = 0;
  if (!claims.insert(&match->claimed, &match->claim)) return 1;
  struct claim *former = claims.lookup(&match->claimed);
  if (!former || former->is_final) return 0;
  match->former_connection = former->connection;
  match->claim.is_final = 1;
  claims.update(&match->claimed, &match->claim);
  return 1;
}

// A connection has been made by this thread: to what was it told to connect?
static __always_inline void tell_lookup(struct scratch *scratch_area, const struct connection *connection,
                                        u64 pid_tid) {
  struct lookup_match *match = (struct lookup_match *)scratch_area->payload;
  struct lookup *told = &match->told;
  match->key = answer_key(pid_tid & ~0xffffffffull, connection->family, connection->remote_address);
  struct answer *shared = answers.lookup(&match->key);
  if (!shared) return;
  u64 now = bpf_ktime_get_ns();
  match->key.pid_tid = pid_tid;
  struct answer *answer = answers.lookup(&match->key);
  int is_same_thread = may_be_meant(answer, connection->remote_port, now);
  if (!is_same_thread) {
    answer = shared;
    if (answer->is_doubtful || !may_be_meant(answer, connection->remote_port, now)) return;
  }
  match->answer = *answer;
  if (!claim_answer(match, connection->id, is_same_thread)) return;
  struct lookup *lookup = lookups.lookup(&match->answer.pid_tid);
  if (!lookup) return;
  // Copied first: the thread that asked may ask anew meanwhile.
  bpf_probe_read_kernel(told, sizeof(*told), lookup);
  u64 at_monotonic_ns = match->answer.at_monotonic_ns;
  if (lookup->end_monotonic_ns != at_monotonic_ns || told->end_monotonic_ns != at_monotonic_ns) return;
  told->kind = RECORD_LOOKUP;
  told->is_same_thread = is_same_thread;
  told->is_only_name = !shared->has_other_names && shared->name_hash == match->answer.name_hash;
  told->connection = connection->id;
  told->former_connection = match->former_connection;
  if (records.ringbuf_output(told, sizeof(*told), BPF_RB_NO_WAKEUP)) count(COUNT_LOOKUPS_RING_FULL);
}
