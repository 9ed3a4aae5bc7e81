// The state machine: bytes that moved through a connection -> records of its exchanges.
//
// It cuts a connection's bytes into exchanges by direction alone: request bytes, then response bytes, then the
// next request. It never looks for the end of a head or of a body: user space does, from the captured bytes and
// the counts, and so also sees where one cut holds several pipelined requests.

static __always_inline int is_token_byte(u8 byte) { return (byte >= 'A' && byte <= 'Z') || byte == '-' || byte == '_'; }

// Like the beginning of a request line, RFC 9112 section 3: a method in capitals, a space. A beginning cut short
// (net/http reads the first byte of the next request alone) counts as long as nothing speaks against it.
static __always_inline int begins_like_request(const struct prefix *prefix) {
  if (prefix->length && (prefix->bytes[0] == '\r' || prefix->bytes[0] == '\n')) return 1;
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

#define HTTP2_PREFACE 0x5448202a20495250ull /* "PRI * HT", RFC 9113 section 3.4 */
#define HTTP1_VERSION 0x002e312f50545448ull /* "HTTP/1." */

// A handshake record of any version in use, RFC 8446 section 5.1. OpenSSL reads the record's five header bytes alone.
static __always_inline int begins_like_tls(const struct prefix *prefix) {
  return prefix->length >= 2 && prefix->bytes[0] == 0x16 && prefix->bytes[1] == 3;
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

// What is to be said of one call. One place sends it: the code that copies is inlined once.
struct report {
  u8 kind;  // enum record_kind; 0: nothing
  u8 is_of_end;  // the call's last bytes are wanted, not its first
  u16 limit_bytes;
};

static __always_inline void begin_exchange(struct connection *connection, const struct call *call, u64 pid_tid,
                                           u32 service_pid, u64 now) {
  count_for(service_pid, COUNT_BEGAN);
  connection->flags &= CONNECTION_BY_ACCEPT;
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
  connection->chunks_state = CHUNKS_OFF;
  connection->chunk_payload_bytes = 0;
  *(u64 *)connection->tail = 0;
}

static __always_inline void on_request_bytes(struct connection *connection, const struct call *call,
                                             const struct prefix *prefix, u64 pid_tid, u32 service_pid, u64 now,
                                             struct report *report) {
  int is_beginning = begins_like_request(prefix);
  report->limit_bytes = REQUEST_CAPTURE_BYTES;
  if (connection->state == STATE_IDLE || (connection->state == STATE_RESPONSE && is_beginning)) {
    if (!is_beginning || (prefix->length >= 8 && *(u64 *)prefix->bytes == HTTP2_PREFACE)) {
      if (is_beginning) count_for(service_pid, COUNT_HTTP2);
      else if (connection->position == (u32)-1 && begins_like_tls(prefix)) count_for(service_pid, COUNT_TLS);
      connection->state = STATE_FOREIGN;
      return;
    }
    if (connection->state == STATE_RESPONSE && connection->flags & CONNECTION_UNTOLD)
      end_exchange(connection, END_NEXT_REQUEST);
    begin_exchange(connection, call, pid_tid, service_pid, now);
    report->kind = RECORD_REQUEST;
    return;
  }
  // More of the request: the rest of its head, its body, or a further request sent before the answer.
  connection->request_bytes += call->bytes;
  connection->request_last_monotonic_ns = now;
  connection->flags |= CONNECTION_UNTOLD;
  if (is_beginning && connection->flags & CONNECTION_REQUEST_HEAD_DONE) {
    connection->flags &= ~CONNECTION_REQUEST_HEAD_DONE;
    connection->request_captured = 0;
  }
  if (connection->state == STATE_RESPONSE) {
    // The rest of a body whose answer came early. The next request may begin behind it, in the same call.
    if (call->pieces) return;
    report->kind = RECORD_REQUEST_MORE;
    report->is_of_end = 1;
    report->limit_bytes = LATE_CAPTURE_BYTES;
    return;
  }
  if (connection->flags & CONNECTION_REQUEST_HEAD_DONE || connection->request_captured >= REQUEST_CAPTURE_BYTES) return;
  report->kind = RECORD_REQUEST_MORE;
  report->limit_bytes = REQUEST_CAPTURE_BYTES - connection->request_captured;
}

static __always_inline void on_response_bytes(struct scratch *scratch_area, struct connection *connection,
                                              const struct call *call, const struct prefix *prefix, u64 now,
                                              struct report *report) {
  if (connection->state == STATE_IDLE) {
    // A server that speaks first is not an HTTP server; after an exchange it may send 408 and close.
    if (connection->position == (u32)-1) connection->state = STATE_FOREIGN;
    return;
  }
  int is_beginning = begins_like_response(prefix);
  // Later on a connection these may be the rest of the answer before, to a client that does not wait.
  if (!connection->response_bytes && !is_beginning && !connection->position) {
    count(COUNT_NOT_HTTP);
    end_exchange(connection, END_NOT_HTTP);
    connection->state = STATE_FOREIGN;
    return;
  }
  connection->response_bytes += call->bytes;
  connection->response_last_monotonic_ns = now;
  connection->flags |= CONNECTION_UNTOLD;
  *(u64 *)connection->tail = tail_after(scratch_area, call, *(u64 *)connection->tail);
  if (!is_beginning || !is_interim(prefix)) connection->state = STATE_RESPONSE;
  if (is_beginning) {
    connection->flags &= ~CONNECTION_RESPONSE_HEAD_DONE;
    connection->response_captured = 0;
    connection->chunks_state = CHUNKS_OFF;
    connection->chunk_left = 0;
    connection->chunk_digits = 0;
    connection->chunk_payload_bytes = 0;
  }
  if (connection->flags & CONNECTION_RESPONSE_HEAD_DONE || connection->response_captured >= RESPONSE_CAPTURE_BYTES)
    return;
  report->kind = RECORD_RESPONSE;
  report->limit_bytes = RESPONSE_CAPTURE_BYTES - connection->response_captured;
}

// Sends what this call moved, with the beginning of its bytes.
static __always_inline void send_report(struct scratch *scratch_area, struct connection *connection,
                                        const struct call *call, const struct report *report, u64 now) {
  if (!report->kind || connection->flags & CONNECTION_UNREPORTED) return;
  struct record *record = &scratch_area->record;
  struct call wanted = *call;
  if (report->is_of_end && call->bytes > report->limit_bytes) wanted.address += call->bytes - report->limit_bytes;
  u64 captured = capture(scratch_area, &wanted, report->limit_bytes);
  if (captured > REQUEST_CAPTURE_BYTES) captured = REQUEST_CAPTURE_BYTES;
  fill_record(record, connection, report->kind, END_NONE, now);
  record->captured_bytes = captured;
  if (report->is_of_end) record->flags |= FLAG_PAYLOAD_IS_END;
  record->total_bytes = call->bytes;
  if (records.ringbuf_output(record, sizeof(*record) + captured, BPF_RB_NO_WAKEUP)) {
    count_lost(connection);
    return;
  }
  connection->flags &= ~CONNECTION_UNTOLD;
  // An empty line at the end of what was captured: this head is whole, and what follows need not be captured.
  u64 end = captured - 4;
  asm volatile("%0 &= 0x1fff" : "+r"(end));
  int is_head_done = captured >= 4 && *(u32 *)(scratch_area->payload + end) == 0x0a0d0a0d;
  if (report->kind != RECORD_RESPONSE) {
    connection->request_captured += captured;
    if (is_head_done) connection->flags |= CONNECTION_REQUEST_HEAD_DONE;
  } else {
    connection->response_captured += captured;
    if (is_head_done) {
      connection->flags |= CONNECTION_RESPONSE_HEAD_DONE;
      connection->chunks_state = CHUNKS_HEAD;
      connection->chunk_left = captured;
    }
  }
}

// A connection that is not known yet. role ROLE_UNKNOWN: its beginning was not seen.
static __always_inline struct connection *add_connection(struct scratch *scratch_area, u64 sock, u8 role,
                                                         u64 descriptor_key, u8 flags) {
  u16 family = stream_family(sock);
  if (!family) return 0;
  struct connection *fresh = &scratch_area->fresh;
  __builtin_memset(fresh, 0, sizeof(*fresh));
  fresh->id = ++scratch_area->connections_made << CPU_BITS | bpf_get_smp_processor_id();
  fresh->position = -1;
  fresh->role = role;
  fresh->family = family;
  fresh->flags = flags;
  read_endpoints(sock, fresh);
  fresh->descriptor_key = descriptor_key;
  // Also when there is no room: an answer on this connection is then no news of an older request.
  descriptors.update(&descriptor_key, &sock);
  if (connections.update(&sock, fresh)) return 0;
  return connections.lookup(&sock);
}

// The entry for every backend: scratch_area->call moved bytes through a stream socket of a target.
// Returns 1 when on_chunks shall go on with it.
static __always_inline int on_bytes(struct scratch *scratch_area, u64 sock, u64 descriptor_key, u64 pid_tid,
                                    u32 service_pid) {
  const struct call *call = &scratch_area->call;
  scratch_area->sock = sock;
  u32 is_inbound = call->is_inbound;
  struct connection *connection = connections.lookup(&sock);
  if (connection && connection->state == STATE_FOREIGN) return 0;
  struct prefix prefix = {};
  if (call->pieces) load_pieces(scratch_area, call);
  read_prefix(scratch_area, call, &prefix);
  u64 now = bpf_ktime_get_ns();
  if (!connection) {
    int is_answer = answers_unseen_request(&prefix);
    if (is_answer) {
      u64 *known = descriptors.lookup(&descriptor_key);
      if (known && *known == sock) return 0;  // there was no room for it
    } else if (!begins_with_known_method(&prefix)) {
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
      begin_exchange(connection, call, pid_tid, service_pid, now);
      connection->flags |= CONNECTION_UNREPORTED;
      count_for(service_pid, COUNT_OLDER);
    }
  }
  if (connection->descriptor_key != descriptor_key) {
    connection->descriptor_key = descriptor_key;
    descriptors.update(&descriptor_key, &sock);
  }
  struct report report = {};
  int is_request = is_inbound == (connection->role == ROLE_SERVER);
  if (is_request) on_request_bytes(connection, call, &prefix, pid_tid, service_pid, now, &report);
  else on_response_bytes(scratch_area, connection, call, &prefix, now, &report);
  send_report(scratch_area, connection, call, &report, now);
  // Of a request only what comes after the answer has begun is not told by the answer's record.
  if (is_request && connection->state != STATE_RESPONSE && !(connection->flags & CONNECTION_UNREPORTED)) return 0;
  write_progress(connection, 0);
  if (prefix.length >= 12 && begins_like_response(&prefix) && is_upgrade(&prefix)) {
    connection->state = STATE_FOREIGN;
    return 0;
  }
  if (is_request || connection->flags & CONNECTION_UNREPORTED) return 0;
  return connection->chunks_state != CHUNKS_OFF ||
         (report.kind == RECORD_RESPONSE && !(connection->flags & CONNECTION_RESPONSE_HEAD_DONE));
}
