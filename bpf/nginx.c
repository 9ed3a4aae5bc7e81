// Uprobes on nginx: for which of its requests an upstream connection is.
//
// One thread works on all requests at once, so what runs says nothing. But for each attempt ngx_event_connect_peer is
// asked for a connection, a fresh one or one that was kept alive, and is given the log of the client's connection,
// which leads to the request. Once it ends the connection is there, and what is sent on it next is for that request.
// What that looks like in memory is the same in all versions; a build in which it is not shows by the request's
// signature, and then nothing is said.

struct nginx_peer {  // ngx_peer_connection_t
  u64 connection;
  u64 unused[11];
  u64 log_without_tls;  // in a build without TLS
  u64 unused_either;
  u64 log;
};

struct nginx_request {  // ngx_http_request_t
  u32 signature;
  u32 unused;
  u64 connection;
};

#define CONNECTION_DESCRIPTOR 24  // ngx_connection_t
#define LOG_CONTEXT 40  // ngx_log_t
#define LOG_REQUEST 8  // ngx_http_log_ctx_t, ngx_mail_log_ctx_t
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

// Leaves what it begins with in `request`.
static __always_inline enum upstream_kind find_request(u64 log, struct nginx_request *request) {
  u64 context = read_user_word(log + LOG_CONTEXT);
  bpf_probe_read_user(request, sizeof(*request), (void *)read_user_word(context + LOG_REQUEST));
  if (request->signature == HTTP_SIGNATURE) return UPSTREAM_OF_HTTP;
  if (request->signature == MAIL_SIGNATURE || read_user_number(context) == STREAM_SIGNATURE) return UPSTREAM_OF_OTHERS;
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

static __always_inline u64 socket_of_nginx(u64 files, u64 connection) {
  return socket_of_file(file_among(files, read_user_number(connection + CONNECTION_DESCRIPTOR)));
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
  u64 pid_tid = current_pid_tid(), address = peer_at_end(ctx, pid_tid);
  struct nginx_peer peer = {};
  struct nginx_request request = {};
  if (!address || bpf_probe_read_user(&peer, sizeof(peer), (void *)address)) return 0;
  if (!peer.connection) return 0;  // it could not be had
  enum upstream_kind kind = find_request(peer.log, &request);
  if (!kind) kind = find_request(peer.log_without_tls, &request);
  tally_upstream(pid_tid >> 32, kind);
  if (kind != UPSTREAM_OF_HTTP) return 0;
  u64 files = files_of_process();
  u64 asked_for = socket_of_nginx(files, peer.connection), asking = socket_of_nginx(files, request.connection);
  struct connection *connection = connections.lookup(&asked_for), *client = connections.lookup(&asking);
  if (!connection || connection->role == ROLE_SERVER) return 0;
  own_nothing(&connection->asked_by);
  if (!client || client->role != ROLE_SERVER || !is_in_hand(client, client->position)) return 0;
  own_exchange(&connection->asked_by, asking, client->id, client->position, LINK_UPSTREAM);
  return 0;
}
