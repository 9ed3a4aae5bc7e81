// Uprobes on nginx: for which of its requests an upstream connection is.
//
// One thread works on all requests at once, so what runs says nothing. But for each attempt ngx_event_connect_peer is
// asked for a connection, a fresh one or one that was kept alive, and is given the log of the client's connection,
// which leads to the request. Once it ends the connection is there, and what is sent on it next is for that request.
// What that looks like in memory is the same in all versions; a build in which it is not shows by the request's
// signature, and then nothing is said.

// ngx_peer_connection_t
#define PEER_CONNECTION 0
#define PEER_LOG 112
#define PEER_LOG_WITHOUT_TLS 96  // in a build without TLS
#define CONNECTION_DESCRIPTOR 24  // ngx_connection_t
#define LOG_CONTEXT 40  // ngx_log_t
#define LOG_REQUEST 8  // ngx_http_log_ctx_t, ngx_mail_log_ctx_t
#define REQUEST_CONNECTION 8  // ngx_http_request_t
// What requests and sessions begin with.
#define HTTP_SIGNATURE 0x50545448
#define MAIL_SIGNATURE 0x4c49414d
#define STREAM_SIGNATURE 0x4d525453

#define COOKIE_IN_REGISTER 0x100

enum upstream_kind { UPSTREAM_UNKNOWN = 0, UPSTREAM_OF_HTTP = 1, UPSTREAM_OF_OTHERS = 2 };

static __always_inline u32 read_user_number(u64 address) {
  u32 number = 0;
  bpf_probe_read_user(&number, sizeof(number), (void *)address);
  return number;
}

// Leaves the request in `request`.
static __always_inline enum upstream_kind find_request(u64 log, u64 *request) {
  u64 context = read_user_word(log + LOG_CONTEXT);
  *request = read_user_word(context + LOG_REQUEST);
  u32 signature = read_user_number(*request);
  if (signature == HTTP_SIGNATURE) return UPSTREAM_OF_HTTP;
  if (signature == MAIL_SIGNATURE || read_user_number(context) == STREAM_SIGNATURE) return UPSTREAM_OF_OTHERS;
  return UPSTREAM_UNKNOWN;
}

static __always_inline void tally_upstream(u32 pid, enum upstream_kind kind) {
  struct upstream_tally nothing = {};
  upstream_tallies.insert(&pid, &nothing);  // unless there is one
  struct upstream_tally *tally = upstream_tallies.lookup(&pid);
  if (!tally) return;
  if (kind) tally->found++;
  else tally->lost++;
}

static __always_inline u64 socket_of_nginx(u64 connection) {
  return socket_of_descriptor(read_user_number(connection + CONNECTION_DESCRIPTOR));
}

static __always_inline int is_watched(u32 pid) {
  struct target *target = targets.lookup(&pid);
  return target && !(target->flags & TARGET_EXCLUDED);
}

int on_upstream_entry(struct pt_regs *ctx) {
  u64 pid_tid = current_pid_tid(), peer = PT_REGS_PARM1(ctx);
  if (is_watched(pid_tid >> 32)) open_upstreams.update(&pid_tid, &peer);
  return 0;
}

// What it was asked for is in the register that the cookie names; or it was, where it began.
static __always_inline u64 peer_at_end(struct pt_regs *ctx, u64 pid_tid) {
  u64 cookie = attach_cookie(ctx);
  if (cookie & COOKIE_IN_REGISTER) return is_watched(pid_tid >> 32) ? register_in(ctx, cookie) : 0;
  u64 *entered = open_upstreams.lookup(&pid_tid);
  if (!entered) return 0;
  u64 peer = *entered;
  open_upstreams.delete(&pid_tid);
  return peer;
}

int on_upstream_end(struct pt_regs *ctx) {
  u64 pid_tid = current_pid_tid(), request = 0;
  u64 peer = peer_at_end(ctx, pid_tid), upstream = 0;
  if (!peer) return 0;
  upstream = read_user_word(peer + PEER_CONNECTION);
  if (!upstream) return 0;  // it could not be had
  enum upstream_kind kind = find_request(read_user_word(peer + PEER_LOG), &request);
  if (!kind) kind = find_request(read_user_word(peer + PEER_LOG_WITHOUT_TLS), &request);
  tally_upstream(pid_tid >> 32, kind);
  if (kind != UPSTREAM_OF_HTTP) return 0;
  u64 asked_for = socket_of_nginx(upstream), asking = socket_of_nginx(read_user_word(request + REQUEST_CONNECTION));
  struct connection *connection = connections.lookup(&asked_for), *client = connections.lookup(&asking);
  if (!connection || connection->role == ROLE_SERVER) return 0;
  own_nothing(&connection->asked_by);
  if (!client || client->role != ROLE_SERVER || !is_in_hand(client, client->position)) return 0;
  own_exchange(&connection->asked_by, asking, client->id, client->position, LINK_UPSTREAM);
  return 0;
}
