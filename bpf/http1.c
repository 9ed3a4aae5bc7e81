// The state machine: bytes that moved through a connection -> records of its exchanges.
//
// It cuts a connection's bytes into exchanges by direction alone: request bytes, then response bytes, then the
// next request. It never looks for the end of a head or of a body: user space does, from the captured bytes and
// the counts, and so also sees where one cut holds several pipelined requests.

static __always_inline u32 hex_digit(u8 byte) {
  if (byte >= '0' && byte <= '9') return byte - '0';
  byte |= 0x20;
  return byte >= 'a' && byte <= 'f' ? byte - 'a' + 10 : 16;
}

static __always_inline int is_token_byte(u8 byte) { return (byte >= 'A' && byte <= 'Z') || byte == '-' || byte == '_'; }

// Empty lines may come before a request (RFC 9112 section 2.2); in a body too.
static __always_inline int leads_to_request(const struct prefix *prefix) {
#pragma unroll
  for (int i = 1; i < 5; i++) {
    u8 byte = prefix->bytes[i];
    if (i >= prefix->length) return 1;
    if (byte != '\r' && byte != '\n') return byte >= 'A' && byte <= 'Z';
  }
  return 1;
}

// Like the beginning of a request line, RFC 9112 section 3: a method in capitals, a space. A beginning cut short
// (net/http reads the first byte of the next request alone) counts as long as nothing speaks against it.
static __always_inline int begins_like_request(const struct prefix *prefix) {
  if (prefix->length && (prefix->bytes[0] == '\r' || prefix->bytes[0] == '\n')) return leads_to_request(prefix);
  if (prefix->bytes[0] == '-') return 0;  // a part of a form
#pragma unroll
  for (int i = 0; i < 8; i++) {
    if (i >= prefix->length) return i > 0;
    if (prefix->bytes[i] == ' ') return i > 0;
    if (!is_token_byte(prefix->bytes[i])) return 0;
  }
  return 1;
}

// The same for a connection whose beginning was not seen: only the registered methods, in one piece.
static __always_inline int begins_with_known_method(const struct prefix *prefix) {
  if (prefix->length < 8) return 0;
  switch (*(u32 *)prefix->bytes) {
    case 0x20544547: /* "GET " */
    case 0x54534f50: /* POST */
    case 0x20545550: /* "PUT " */
    case 0x44414548: /* HEAD */
    case 0x454c4544: /* DELE */
    case 0x43544150: /* PATC */
    case 0x4954504f: /* OPTI */
    case 0x4e4e4f43: /* CONN */
    case 0x43415254: /* TRAC */
    case 0x52455551: /* QUER */
      return 1;
  }
  return 0;
}

#define END_OF_HEAD 0x0a0d0a0d /* "\r\n\r\n" */
#define HTTP2_PREFACE 0x5448202a20495250ull /* "PRI * HT", RFC 9113 section 3.4 */
#define HTTP1_VERSION 0x002e312f50545448ull /* "HTTP/1." */

// A SETTINGS frame of any length for stream 0 and no acknowledgement: how an HTTP/2 server begins, RFC 9113
// section 3.4.
static __always_inline int begins_like_http2_server(const struct prefix *prefix) {
  return prefix->length >= 8 && (*(u64 *)prefix->bytes & 0xffffffffff00ffffull) == 0x04000000ull;
}

// Like the beginning of a status line, as far as it goes.
static __always_inline int begins_like_response(const struct prefix *prefix) {
  u64 word = *(u64 *)prefix->bytes, mask = 0x00ffffffffffffffull;
  if (!prefix->length) return 0;
  if (prefix->length < 7) mask = (1ull << (8 * (prefix->length & 7))) - 1;
  return (word & mask) == (HTTP1_VERSION & mask);
}

// On a connection whose beginning was not seen: the proof of a request that was not seen either.
static __always_inline int answers_unseen_request(const struct prefix *prefix) {
  return prefix->length >= 12 && begins_like_response(prefix);
}

// 100 Continue, 103 Early Hints: the response is still to come. 101 is final.
static __always_inline int is_interim(const struct prefix *prefix) {
  return prefix->length >= 12 && prefix->bytes[9] == '1' && !(prefix->bytes[10] == '0' && prefix->bytes[11] == '1');
}

static __always_inline int is_upgrade(const struct prefix *prefix) {
  return prefix->length >= 12 && prefix->bytes[9] == '1' && prefix->bytes[10] == '0' && prefix->bytes[11] == '1';
}

static __always_inline int ends_like_head(const struct call *call) {
  u32 last = 0;
  if (call->pieces || call->is_unread || call->bytes < 18) return 0;
  READ_MOVED(&last, 4, (void *)(call->address + call->bytes - 4));
  return last == END_OF_HEAD;
}

static __always_inline void begin_exchange(struct connection *connection, const struct call *call, u64 pid_tid,
                                           u32 service_pid, u64 now) {
  // The answer before may still be in flight: its chunks are followed on, and what is surely of them is not captured.
  struct chunks *chunks = &connection->chunks[RESPONSE_CHUNKS];
  int is_in_chunks = chunks->state >= CHUNKS_SIZE && chunks->state < CHUNKS_ENDED;
  int is_in_body = is_in_chunks && (chunks->payload_bytes || chunks->state != CHUNKS_SIZE);
  count_for(service_pid, COUNT_BEGAN);
  u16 pipelined = connection->flags & CONNECTION_PIPELINED ? CONNECTION_HAS_PIPELINED : 0;
  connection->flags &= CONNECTION_BY_ACCEPT | CONNECTION_TLS | CONNECTION_TLS_SEEN | CONNECTION_TOLD_EARLY |
                       CONNECTION_CALLER_WATCHED | CONNECTION_HAS_PIPELINED |
                       (is_in_body ? CONNECTION_RESPONSE_HEAD_DONE : 0);
  connection->flags |= pipelined;
  connection->state = STATE_REQUEST;
  connection->position++;
  connection->pid = pid_tid >> 32;
  connection->tid = pid_tid;
  connection->service_pid = service_pid;
  connection->request_bytes = call->bytes;
  connection->response_bytes = 0;
  connection->request_last_monotonic_ns = now;
  connection->response_last_monotonic_ns = 0;
  connection->request_captured = 0;
  connection->response_captured = 0;
  connection->request_head_last = 0;
  connection->response_head_last = 0;
  connection->parent_connection = 0;
  connection->parent_position = 0;
  connection->parent_evidence = LINK_NONE;
  connection->parent_may_err = 0;
  connection->children = 0;
  connection->is_request_to_come = 0;
  if (!is_in_chunks) {
    chunks->state = CHUNKS_OFF;
    chunks->payload_bytes = 0;
  }
  connection->chunks[REQUEST_CHUNKS] = (struct chunks){};
}

// Its answer is seen, and its request was not, or not yet: it is counted, and not told of.
static __always_inline void begin_unreported(struct connection *connection, const struct call *call, u64 pid_tid,
                                             u32 service_pid, u64 now, u32 counter) {
  begin_exchange(connection, call, pid_tid, service_pid, now);
  connection->flags |= CONNECTION_UNREPORTED;
  count_for(service_pid, counter);
}

// May these bytes go on with a chunk, a size line or a trailer of the request? A body of known length may read like
// chunks by chance, so that they look like another request counts all the same.
static __always_inline int is_in_request_chunks(const struct chunks *chunks, const struct prefix *prefix) {
  u8 state = chunks->state;
  if (state == CHUNKS_OFF || state == CHUNKS_HEAD || state == CHUNKS_ENDED) return 0;
  if (state > CHUNKS_SIZE || chunks->digits) return 1;
  // A size line may begin here. At first another request is as likely: some methods begin with hexadecimal digits.
  if (!prefix->length || hex_digit(prefix->bytes[0]) >= 16) return 0;
  return state == CHUNKS_SIZE || !begins_like_request(prefix);
}

// Bytes have moved since the last record; or when the bytes that it told of were sent is not told yet.
static __always_inline int is_end_untold(const struct connection *connection) {
  return connection->flags & (CONNECTION_UNTOLD | CONNECTION_TOLD_EARLY);
}

// A further response begins behind one that was only counted: says how far that one came, and when.
static __always_inline void tell_response_end(struct scratch *scratch_area, struct connection *connection, u64 now) {
  struct record *record = &scratch_area->record;
  if (connection->flags & CONNECTION_UNREPORTED) return;
  fill_record(record, connection, RECORD_END, END_NEXT_RESPONSE, now);
  if (records.ringbuf_output(record, sizeof(*record), BPF_RB_NO_WAKEUP)) count_lost(connection);
}

// A client has sent this before the server can have read it, so it has been through connect by now.
static __always_inline int is_caller_watched(u32 first_sequence) {
  if (!first_sequence || !callers.lookup(&first_sequence)) return 0;
  callers.delete(&first_sequence);
  return 1;
}

// What tells the other end of the connection that this request is the one that it knows.
static __always_inline void name_other_end(struct connection *connection, const struct call *call, u64 sock) {
  int is_server = connection->role == ROLE_SERVER;
  if (connection->family == AF_UNIX) {
    u64 peer = 0;
    if (!is_server || !(connection->flags & CONNECTION_BY_ACCEPT)) return;
    READ_FIELD(peer, sock, struct unix_sock, peer);
    struct connection *client = connections.lookup(&peer);
    if (!client || client->role != ROLE_CLIENT || !(client->flags & CONNECTION_BY_ACCEPT)) return;
    connection->parent_connection = client->id;
    connection->parent_position = connection->position;
    connection->parent_evidence = LINK_CONNECTION;
    connection->flags |= CONNECTION_CALLER_WATCHED;
    return;
  }
  if (is_server && !connection->position && is_caller_watched(connection->sequence))
    connection->flags |= CONNECTION_CALLER_WATCHED;
  if (connection->flags & CONNECTION_TLS) return;
  // As it connects, a client has no number of the bytes that it will read.
  if (!is_server && !connection->read_sequence) connection->read_sequence = next_sequence(sock, 0);
  u32 behind = call->is_inbound ? connection->read_sequence : connection->written_sequence;
  connection->sequence = behind ? behind - (u32)call->bytes : 0;
}

// How much of a request is captured; beyond that only where a head may be.
static __always_inline u32 wanted_request_bytes(const struct connection *connection) {
  if (connection->flags & CONNECTION_PIPELINED) return MAX_HEAD_BYTES;
  if (connection->flags & CONNECTION_REQUEST_HEAD_DONE) return 0;
  // A body that shares a call with its head is small, or read on in vain for as long as it might be.
  return connection->flags & CONNECTION_REQUEST_HEAD_ENDED ? REQUEST_CAPTURE_BYTES : MAX_HEAD_BYTES;
}

static __always_inline void on_request_bytes(struct connection *connection, const struct call *call,
                                             const struct prefix *prefix, u64 pid_tid, u32 service_pid, u64 now,
                                             volatile struct report *report) {
  struct chunks *chunks = &connection->chunks[REQUEST_CHUNKS];
  int is_in_chunks = is_in_request_chunks(chunks, prefix), is_beginning = begins_like_request(prefix);
  report->limit_bytes = REQUEST_CAPTURE_BYTES;
  if (connection->is_request_to_come) {
    connection->is_request_to_come = 0;
    return;
  }
  if (connection->state == STATE_IDLE || (connection->state == STATE_RESPONSE && is_beginning)) {
    if (!is_beginning || (prefix->length >= 8 && *(u64 *)prefix->bytes == HTTP2_PREFACE)) {
      if (is_beginning) count_for(service_pid, COUNT_HTTP2);
      if (call->is_unread) count_for(service_pid, COUNT_CALLS_UNSEEN);
      connection->state = STATE_FOREIGN;
      return;
    }
    if (connection->state == STATE_RESPONSE && is_end_untold(connection)) end_exchange(connection, END_NEXT_REQUEST);
    if (!service_pid) {
      connection->state = STATE_FOREIGN;
      return;
    }
    begin_exchange(connection, call, pid_tid, service_pid, now);
    report->kind = RECORD_REQUEST;
    return;
  }
  // More of the request: the rest of its head, its body, or a further request sent before the answer.
  connection->request_bytes += call->bytes;
  connection->request_last_monotonic_ns = now;
  connection->flags |= CONNECTION_UNTOLD;
  if (!is_in_chunks && !(is_beginning && chunks->state == CHUNKS_ENDED)) chunks->state = CHUNKS_OFF;
  if (is_in_chunks && chunks->state == CHUNKS_AWAITED) chunks->state = CHUNKS_SIZE;
  if (is_in_chunks && !is_beginning) return;  // on_chunks goes on with them
  if (is_beginning && connection->flags & (CONNECTION_REQUEST_HEAD_DONE | CONNECTION_REQUEST_HEAD_ENDED)) {
    connection->flags &= ~(CONNECTION_REQUEST_HEAD_DONE | CONNECTION_REQUEST_HEAD_ENDED);
    connection->flags |= CONNECTION_PIPELINED;
    connection->request_captured = 0;
    connection->request_head_last = 0;
  }
  if (connection->state == STATE_RESPONSE) {
    // The rest of a body whose answer came early. The next request may begin behind it, in the same call.
    if (call->pieces) return;
    report->kind = RECORD_REQUEST_MORE;
    report->is_of_end = 1;
    report->limit_bytes = LATE_CAPTURE_BYTES;
    return;
  }
  u32 wanted_bytes = wanted_request_bytes(connection);
  if (connection->request_captured < wanted_bytes) {
    report->kind = RECORD_REQUEST_MORE;
    u32 room_bytes = wanted_bytes - connection->request_captured;
    if (room_bytes < REQUEST_CAPTURE_BYTES) report->limit_bytes = room_bytes;
  } else if (ends_like_head(call)) {
    // The end of a body, and a further request behind it in the same call.
    connection->flags |= CONNECTION_PIPELINED;
    report->kind = RECORD_REQUEST_MORE;
    report->is_of_end = 1;
    report->limit_bytes = LATE_CAPTURE_BYTES;
  }
}

static __always_inline void on_response_bytes(struct scratch *scratch_area, struct connection *connection,
                                              const struct call *call, const struct prefix *prefix, u64 now,
                                              volatile struct report *report) {
  if (connection->state == STATE_IDLE) return;  // after an exchange a server may send 408 and close
  int is_beginning = begins_like_response(prefix);
  // Later on a connection these may be the rest of the answer before, to a client that does not wait.
  if (!connection->response_bytes && !is_beginning && !connection->position) {
    count(COUNT_NOT_HTTP);
    end_exchange(connection, END_NOT_HTTP);
    connection->state = STATE_FOREIGN;
    return;
  }
  if (is_beginning && connection->state == STATE_RESPONSE && is_end_untold(connection))
    tell_response_end(scratch_area, connection, now);
  connection->response_bytes += call->bytes;
  connection->response_last_monotonic_ns = now;
  connection->flags |= CONNECTION_UNTOLD;
  *(u64 *)connection->tail = tail_after(scratch_area, call, *(u64 *)connection->tail);
  if (!is_beginning || !is_interim(prefix)) connection->state = STATE_RESPONSE;
  if (is_beginning) {
    connection->flags &= ~CONNECTION_RESPONSE_HEAD_DONE;
    connection->response_captured = 0;
    connection->response_head_last = 0;
    connection->chunks[RESPONSE_CHUNKS] = (struct chunks){};
  }
  int is_head_wanted = !(connection->flags & CONNECTION_RESPONSE_HEAD_DONE) || connection->flags & CONNECTION_PIPELINED;
  if (!is_head_wanted || connection->response_captured >= MAX_HEAD_BYTES) return;
  report->kind = RECORD_RESPONSE;
  report->limit_bytes = connection->response_captured ? REQUEST_CAPTURE_BYTES : RESPONSE_CAPTURE_BYTES;
}

// Sends what stands in scratch->payload: `captured` bytes, of `moved` that this record tells of. They are the call's,
// but for the `left` last ones.
static __always_inline int send_captured(struct scratch *scratch_area, struct connection *connection, u32 kind,
                                         u64 captured, u64 moved, u64 left, u8 flags) {
  struct record *record = &scratch_area->record;
  int is_response = kind == RECORD_RESPONSE;
  fill_record(record, connection, kind, END_NONE,
              is_response ? connection->response_last_monotonic_ns : connection->request_last_monotonic_ns);
  AT_MOST(captured, REQUEST_CAPTURE_BYTES);
  record->captured_bytes = captured;
  record->flags |= flags;
  record->total_bytes = moved;
  if (is_response) record->response_bytes -= left;
  else record->request_bytes -= left;
  if (kind == RECORD_REQUEST_MORE) record->parent_position -= moved + left;  // the chunks ended before these bytes
  if (records.ringbuf_output(record, sizeof(*record) + captured, BPF_RB_NO_WAKEUP)) {
    count_lost(connection);
    return 0;
  }
  connection->flags &= ~CONNECTION_UNTOLD;
  if (is_response) {
    connection->response_captured += captured;
    return 1;
  }
  connection->request_captured += captured;
  struct chunks *chunks = &connection->chunks[REQUEST_CHUNKS];
  if (chunks->state == CHUNKS_ENDED) chunks->state = CHUNKS_OFF;  // that is told
  return 1;
}

// The response's head ends behind so many bytes of this call.
static __always_inline void on_response_head(struct connection *connection, u32 bytes) {
  if (connection->flags & CONNECTION_RESPONSE_HEAD_DONE) return;  // of a body, then, to a client that pipelines
  connection->flags |= CONNECTION_RESPONSE_HEAD_DONE;
  struct chunks *chunks = &connection->chunks[RESPONSE_CHUNKS];
  if (chunks->state != CHUNKS_OFF) return;  // of a body that was in flight when the client went on
  chunks->state = CHUNKS_HEAD;
  chunks->left_bytes = bytes;
}

// The request's head ends behind so many of the bytes of this call, which are the last ones so far.
static __always_inline void on_request_head_end(struct connection *connection, u32 bytes, u64 call_bytes) {
  if (connection->flags & (CONNECTION_REQUEST_HEAD_ENDED | CONNECTION_REQUEST_HEAD_DONE)) return;  // of a body, then
  struct chunks *chunks = &connection->chunks[REQUEST_CHUNKS];
  if (chunks->state >= CHUNKS_SIZE && chunks->state < CHUNKS_ENDED) return;
  *chunks = (struct chunks){};
  connection->request_body_at = connection->request_bytes - call_bytes + bytes;
  chunks->state = bytes == call_bytes ? CHUNKS_AWAITED : CHUNKS_HEAD;
  if (chunks->state == CHUNKS_HEAD) chunks->left_bytes = bytes;
}

// Tells of what this call moved, with the beginning of its bytes. Returns 1 when on_heads has to look at them first:
// where the head ends they do not show by themselves.
static __always_inline int send_report(struct scratch *scratch_area, struct connection *connection,
                                       const struct call *call) {
  volatile struct report *report = &scratch_area->report;
  u32 kind = report->kind, limit_bytes = report->limit_bytes, is_of_end = report->is_of_end;
  if (!kind || connection->flags & CONNECTION_UNREPORTED) return 0;
  u64 captured = is_of_end ? capture_end(scratch_area, call, limit_bytes) : capture(scratch_area, call, limit_bytes);
  if (captured > REQUEST_CAPTURE_BYTES) captured = REQUEST_CAPTURE_BYTES;
  // An empty line at the end of what was captured: this head is whole, and what follows need not be captured.
  u64 end = captured - 4;
  asm volatile("%0 &= 0x1fff" : "+r"(end));
  int is_head_done = captured >= 4 && *(u32 *)(scratch_area->payload + end) == END_OF_HEAD;
  if (!is_head_done && captured && !is_of_end) {
    volatile struct head_block *block = &scratch_area->head_block;
    block->offset = 0;
    block->captured = captured;
    block->kind = kind;
    block->is_behind_chunks = 0;
    return 1;
  }
  if (!send_captured(scratch_area, connection, kind, captured, call->bytes, 0, is_of_end ? FLAG_PAYLOAD_IS_END : 0))
    return 0;
  scratch_area->told_bytes = call->bytes;
  if (!is_head_done) return 0;
  if (kind != RECORD_RESPONSE) {
    if (!is_of_end) on_request_head_end(connection, captured, call->bytes);
    connection->flags |= CONNECTION_REQUEST_HEAD_DONE;
  } else {
    on_response_head(connection, captured);
  }
  return 0;
}

// A connection that is not known yet. role ROLE_UNKNOWN: its beginning was not seen.
static __always_inline struct connection *add_connection(struct scratch *scratch_area, u64 sock, u8 role,
                                                         u64 descriptor_key, u16 flags) {
  u16 family = stream_family(sock);
  if (!family) return 0;
  struct connection *fresh = &scratch_area->fresh;
  __builtin_memset(fresh, 0, sizeof(*fresh));
  fresh->id = new_connection_id(scratch_area);
  fresh->position = -1;
  fresh->role = role;
  fresh->family = family;
  fresh->flags = flags;
  read_endpoints(sock, fresh);
  fresh->network_namespace = network_namespace_of(sock);
  int is_connecting = flags & CONNECTION_BY_ACCEPT && role == ROLE_CLIENT;
  fresh->written_sequence = next_sequence(sock, 1);
  if (!is_connecting) fresh->read_sequence = next_sequence(sock, 0);
#ifdef BY_KPROBES
  // As tcp_connect begins: the SYN, which takes a number, is still to come.
  if (fresh->written_sequence && is_connecting) fresh->written_sequence++;
#endif
  if (flags & CONNECTION_BY_ACCEPT)
    fresh->sequence = role == ROLE_CLIENT ? fresh->written_sequence : fresh->read_sequence;
  if (role == ROLE_CLIENT && fresh->sequence) {
    u32 first_sequence = fresh->sequence;
    u8 is_known = 1;
    callers.update(&first_sequence, &is_known);
  }
  fresh->descriptor_key = descriptor_key;
  // Also when there is no room, and when the connection has ended: an answer on it is then no news of an older request.
  descriptors.update(&descriptor_key, &sock);
  if (connections.update(&sock, fresh)) return 0;
  set_slot_owner(fresh->id, 0, fresh->id);
  return connections.lookup(&sock);
}

// What on_sys_exit goes on with; a program of its own each.
enum go_on { GO_ON_WITH_NOTHING = 0, GO_ON_WITH_CHUNKS = 1, GO_ON_WITH_HEADS = 2, GO_ON_WITH_BEGINNING = 3 };

// When all that was to be told of a call is told.
static __always_inline enum go_on after_report(const struct connection *connection, int is_request) {
  u8 chunks_state = connection->chunks[is_request ? REQUEST_CHUNKS : RESPONSE_CHUNKS].state;
  if (is_request && chunks_state >= CHUNKS_HEAD && chunks_state < CHUNKS_ENDED) return GO_ON_WITH_CHUNKS;
  // Of a request only what comes after the answer has begun is not told by the answer's record.
  int is_unreported = connection->flags & CONNECTION_UNREPORTED;
  if (is_request && connection->state != STATE_RESPONSE && !is_unreported) return GO_ON_WITH_NOTHING;
  write_progress(connection, 0);
  if (is_request || is_unreported || connection->state == STATE_FOREIGN || chunks_state == CHUNKS_OFF)
    return GO_ON_WITH_NOTHING;
  return GO_ON_WITH_CHUNKS;
}

// What is to be said of a call, once it is known whose work it is.
static __always_inline enum go_on tell_plain_bytes(struct scratch *scratch_area, struct connection *connection,
                                                   const struct call *call, const struct prefix *prefix) {
  int is_for_heads = send_report(scratch_area, connection, call);
  if (prefix->length >= 12 && begins_like_response(prefix) && is_upgrade(prefix)) connection->state = STATE_FOREIGN;
  if (is_for_heads) return GO_ON_WITH_HEADS;
  return after_report(connection, call->is_inbound == (connection->role == ROLE_SERVER));
}

// `call`, which is scratch_area->call, moved bytes of a known connection, in plain text.
static __always_inline enum go_on on_plain_bytes(struct scratch *scratch_area, struct connection *connection,
                                                 const struct call *call, struct prefix *prefix, u64 pid_tid,
                                                 u32 service_pid, u64 now) {
  volatile struct report *report = &scratch_area->report;
  report->kind = 0;
  report->is_of_end = 0;
  scratch_area->told_bytes = 0;
  scratch_area->chunk_place.rounds = 0;
  scratch_area->chunk_place.is_begun = 0;
  scratch_area->for_owners = FOR_OWNERS_NOTHING;
  int is_request = call->is_inbound == (connection->role == ROLE_SERVER);
  if (!is_request && service_pid && begins_like_response(prefix) && is_answered_first(connection, scratch_area->sock)) {
    if (connection->state == STATE_RESPONSE && is_end_untold(connection)) end_exchange(connection, END_NEXT_REQUEST);
    begin_unreported(connection, call, pid_tid, service_pid, now, COUNT_ANSWERED_FIRST);
    connection->is_request_to_come = 1;
  }
  if (!is_request && connection->state == STATE_IDLE && connection->position == (u32)-1) {
    int is_http2 = begins_like_http2_server(prefix);
    if (is_http2) count_for(service_pid, COUNT_HTTP2);
    if (is_http2 || !(connection->flags & CONNECTION_TLS)) {  // TLS may be seen from a later moment on
      // A server that speaks first does not speak HTTP/1.
      connection->state = STATE_FOREIGN;
      return GO_ON_WITH_NOTHING;
    }
  }
  int is_unanswered = !is_request && connection->state == STATE_REQUEST && connection->role == ROLE_SERVER;
  if (is_request) on_request_bytes(connection, call, prefix, pid_tid, service_pid, now, report);
  else on_response_bytes(scratch_area, connection, call, prefix, now, report);
  if (is_unanswered && connection->state == STATE_RESPONSE && interpreters.lookup(&connection->pid))
    scratch_area->for_owners = FOR_OWNERS_ANSWER;
  int is_beginning = report->kind == RECORD_REQUEST;
  if (is_beginning) name_other_end(connection, call, scratch_area->sock);
  if (is_beginning && has_program_of_its_own(connection, pid_tid)) return GO_ON_WITH_BEGINNING;
  if (is_beginning || (is_request && connection->request_bytes == call->bytes + 1))
    on_request_head(scratch_area, connection, pid_tid, is_beginning, call->bytes);
  return tell_plain_bytes(scratch_area, connection, call, prefix);
}

// The entry for every backend: scratch_area->call moved bytes through a stream socket of a target.
static __always_inline enum go_on on_bytes(struct scratch *scratch_area, u64 sock, u64 descriptor_key, u64 pid_tid,
                                           u32 service_pid) {
  const struct call *call = &scratch_area->call;
  scratch_area->sock = sock;
  scratch_area->for_owners = FOR_OWNERS_NOTHING;
  u32 is_inbound = call->is_inbound;
  struct connection *connection = connections.lookup(&sock);
  if (connection && connection->state == STATE_FOREIGN) return GO_ON_WITH_NOTHING;
  if (!service_pid && !connection) return GO_ON_WITH_NOTHING;
  if (connection && connection->flags & CONNECTION_TLS && !(connection->flags & CONNECTION_TLS_HEADER_READ)) {
    if (!is_inbound) connection->ciphertext_sent_monotonic_ns = bpf_ktime_get_ns();
    else if (connection->role == ROLE_UNKNOWN) on_older_ciphertext(scratch_area, connection->id, pid_tid >> 32);
    else if (connection->role == ROLE_SERVER && connection->position == (u32)-1)
      scratch_area->for_owners = FOR_OWNERS_HANDSHAKE;
    return GO_ON_WITH_NOTHING;
  }
  struct prefix *prefix = &scratch_area->prefix;
  int is_readable = !call->pieces || load_pieces(scratch_area, call);
  if (!is_readable || !read_prefix(scratch_area, call, prefix) ||
      (connection && !has_seen_all(connection, sock, call))) {
    lose_bytes(connection, service_pid);
    return GO_ON_WITH_NOTHING;
  }
  u64 now = bpf_ktime_get_ns();
  if (!connection) {
    if (begins_like_tls_data(prefix)) {
      // Older than the agent: whose it is, its TLS object may tell.
      connection = add_connection(scratch_area, sock, ROLE_UNKNOWN, descriptor_key, CONNECTION_TLS);
      if (connection) on_older_ciphertext(scratch_area, connection->id, pid_tid >> 32);
      count_for(service_pid, COUNT_TLS);
      return GO_ON_WITH_NOTHING;
    }
    int is_answer = answers_unseen_request(prefix);
    if (is_answer) {
      u64 *known = descriptors.lookup(&descriptor_key);
      if (known && *known == sock) return 0;  // there was no room for it
    } else if (!begins_with_known_method(prefix)) {
      return 0;
    }
    connection =
        add_connection(scratch_area, sock, is_inbound != is_answer ? ROLE_SERVER : ROLE_CLIENT, descriptor_key, 0);
    if (!connection) {
      if (stream_family(sock)) {
        count_for(service_pid, COUNT_BEGAN);
        count_for(service_pid, COUNT_LOST_CONNECTIONS_FULL);
      }
      return 0;
    }
    if (is_answer) {
      begin_unreported(connection, call, pid_tid, service_pid, now, COUNT_OLDER);
    }
  }
  if (connection->descriptor_key != descriptor_key) {
    connection->descriptor_key = descriptor_key;
    descriptors.update(&descriptor_key, &sock);
  }
  int is_first = connection->position == (u32)-1 && connection->state == STATE_IDLE;
  if (is_first && is_inbound == (connection->role == ROLE_SERVER) &&
      skip_proxy_header(scratch_area, connection, prefix, service_pid))
    return GO_ON_WITH_NOTHING;
  if (is_hello(connection, prefix)) {
    on_hello(scratch_area, connection, prefix, pid_tid >> 32, service_pid);
#ifdef BY_KPROBES
    connection->descriptor_key = pid_tid >> 32 << 32 | (u32)first_of_system_call();
#endif
    return GO_ON_WITH_NOTHING;
  }
  return on_plain_bytes(scratch_area, connection, call, prefix, pid_tid, service_pid, now);
}
