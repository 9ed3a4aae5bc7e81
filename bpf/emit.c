// Put records together and hand them over; count what did not fit.

static __always_inline u8 chunk_flags(const struct connection *connection) {
  u8 state = connection->chunks[RESPONSE_CHUNKS].state;
  if (state < CHUNKS_SIZE) return 0;
  return FLAG_CHUNKS_FOLLOWED | (state == CHUNKS_ENDED ? FLAG_CHUNKS_ENDED : 0);
}

// Payload that has been moved: of the chunk in hand its size is counted, and what is still to come (with the two bytes
// of its line end) is not.
static __always_inline u64 chunk_payload(const struct connection *connection) {
  const struct chunks *chunks = &connection->chunks[RESPONSE_CHUNKS];
  u64 to_come = chunks->state == CHUNKS_DATA ? chunks->left_bytes : 0;
  return chunks->payload_bytes - (to_come > 2 ? to_come - 2 : 0);
}

// Of a connection that is told early: when the socket had taken what was handed over last, 0: it may not have yet.
static __always_inline u64 sent_at(const struct connection *connection) {
  u64 sent = *(const volatile u64 *)&connection->sent_monotonic_ns;
  return sent >= connection->response_last_monotonic_ns ? sent : 0;
}

static __always_inline int is_told_early(const struct connection *connection) {
  return connection->flags & CONNECTION_TOLD_EARLY && connection->response_last_monotonic_ns;
}

static __always_inline void fill_record(struct record *record, const struct connection *connection, u8 kind, u8 reason,
                                        u64 now) {
  record->kind = kind;
  record->lost = connection->lost;
  record->role = connection->role;
  record->family = connection->family;
  record->reason = reason;
  record->flags = (connection->flags & CONNECTION_BY_ACCEPT ? FLAG_ROLE_BY_CONNECTION : 0) |
                  (connection->flags & CONNECTION_PEER_SHUTDOWN ? FLAG_PEER_SHUTDOWN : 0) |
                  (connection->flags & CONNECTION_TLS ? FLAG_TLS : 0) |
                  (kind == RECORD_REQUEST && connection->flags & CONNECTION_CALLER_WATCHED ? FLAG_CALLER_WATCHED : 0) |
                  chunk_flags(connection);
  record->captured_bytes = 0;
  record->pid = connection->pid;
  record->tid = connection->tid;
  record->service_pid = connection->service_pid;
  record->position = connection->position;
  record->connection = connection->id;
  record->at_monotonic_ns = now;
  record->request_bytes = connection->request_bytes;
  record->response_bytes = connection->response_bytes;
  record->request_last_monotonic_ns = connection->request_last_monotonic_ns;
  record->response_last_monotonic_ns = connection->response_last_monotonic_ns;
  if (is_told_early(connection)) {
    u64 sent = sent_at(connection);
    if (sent) record->response_last_monotonic_ns = sent;
    else record->flags |= FLAG_UNSENT;
  }
  record->total_bytes = 0;
  record->local_port = connection->local_port;
  record->remote_port = connection->remote_port;
  __builtin_memcpy(record->local_address, connection->local_address, 16);
  __builtin_memcpy(record->remote_address, connection->remote_address, 16);
  __builtin_memcpy(record->tail, connection->tail, 8);
  record->chunk_payload_bytes = chunk_payload(connection);
  int is_beginning = kind == RECORD_REQUEST;
  const struct chunks *chunks = &connection->chunks[REQUEST_CHUNKS];
  if (!is_beginning && chunks->state == CHUNKS_ENDED) record->flags |= FLAG_REQUEST_CHUNKS_ENDED;
  u32 chunks_wire_bytes = (u32)connection->request_bytes - connection->request_body_at;
  record->parent_connection = is_beginning ? connection->parent_connection : chunks->payload_bytes;
  record->parent_position = is_beginning ? connection->parent_position : chunks_wire_bytes;
  record->parent_evidence =
      is_beginning ? connection->parent_evidence | (connection->parent_may_err ? LINK_MAY_ERR : 0) : 0;
  record->network_namespace = is_beginning ? connection->network_namespace : 0;
  record->sequence = is_beginning ? connection->sequence : 0;
}

// A number for a connection whose slot no open one has. One that goes on would write over how this one ends.
static __always_inline u64 new_connection_id(struct scratch *scratch_area) {
  u64 id = 0;
  for (int tries = 0; tries < MAX_SLOT_TRIES; tries++) {
    id = ++scratch_area->connections_made << CPU_BITS | bpf_get_smp_processor_id();
    u32 slot = id & (PROGRESS_SLOTS - 1);
    u64 *owner = slot_owners.lookup(&slot);
    if (owner && !*owner) break;
  }
  return id;
}

static __always_inline void set_slot_owner(u64 id, u64 before, u64 after) {
  u32 slot = id & (PROGRESS_SLOTS - 1);
  u64 *owner = slot_owners.lookup(&slot);
  if (owner && *owner == before) *owner = after;
}

static __always_inline void forget_connection(u64 sock, const struct connection *connection) {
  set_slot_owner(connection->id, connection->id, 0);
  if (connection->hello.pid) tls_sockets.delete((struct tls_key *)&connection->hello);
  connections.delete(&sock);
}

static __always_inline void write_progress(const struct connection *connection, u8 ended) {
  u32 slot = connection->id & (PROGRESS_SLOTS - 1);
  volatile struct progress *progress_slot = progress.lookup(&slot);
  if (!progress_slot) return;
  progress_slot->connection = connection->id;
  progress_slot->position = connection->position;
  progress_slot->flags = chunk_flags(connection);
  progress_slot->chunk_payload_bytes = chunk_payload(connection);
  progress_slot->lost_count = connection->lost;
  progress_slot->lost = connection->flags & CONNECTION_UNREPORTED ? 1 : 0;
  progress_slot->request_last_monotonic_ns = connection->request_last_monotonic_ns;
  u64 response_last = connection->response_last_monotonic_ns;
  if (is_told_early(connection)) {
    u64 sent = sent_at(connection);
    response_last = sent ? sent : response_last | PROGRESS_UNSENT;
  }
  progress_slot->response_last_monotonic_ns = response_last;
  *(volatile u64 *)progress_slot->tail = *(u64 *)connection->tail;
  progress_slot->request_bytes = connection->request_bytes;
  progress_slot->response_bytes = connection->response_bytes;
  progress_slot->ended = ended;
}

// A record of the connection's exchange did not fit into the ring: nothing more is said of it.
static __always_inline void count_lost(struct connection *connection) {
  count_for(connection->service_pid, COUNT_LOST_RING_FULL);
  connection->lost++;
  connection->flags |= CONNECTION_UNREPORTED;
}

static __always_inline int is_exchange_open(const struct connection *connection) {
  return connection->state == STATE_REQUEST || connection->state == STATE_RESPONSE;
}

// The exchange of this connection is over, as far as the kernel can see. Safe in softirq.
static __always_inline void end_exchange(struct connection *connection, u8 reason) {
  if (!is_exchange_open(connection)) return;
  connection->state = STATE_IDLE;
  write_progress(connection, reason);
  if (connection->flags & CONNECTION_UNREPORTED) return;
  struct record record;
  fill_record(&record, connection, RECORD_END, reason, bpf_ktime_get_ns());
  if (!records.ringbuf_output(&record, sizeof(record), BPF_RB_NO_WAKEUP)) return;
  // The progress table tells of this end, unless the next exchange is about to take the slot.
  if (reason == END_NEXT_REQUEST) count_lost(connection);
  else count(COUNT_END_RING_FULL);
}
