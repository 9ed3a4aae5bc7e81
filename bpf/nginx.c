// For which of nginx's requests a call is, which it sends.
//
// One thread works on all requests at once, so what runs says nothing. But nginx waits for each of its sockets by
// epoll, and has the kernel keep the address of what it knows of the socket there. That leads to the request for which
// the connection is in use, a fresh one or one that was kept alive: at once, or by its log where a module has its own
// use for the connection. What that looks like in memory is the same in all versions, with TLS or without. Each step
// proves itself: the descriptor is this very socket's, the request begins with its signature. Where one does not,
// nothing is said.

struct nginx_connection {  // ngx_connection_t
  u64 data;
  u64 events[2];
  u32 descriptor;
  u32 padding;
  u64 others[6];
  u64 log;
};
struct nginx_request {  // ngx_http_request_t
  u32 signature;
  u32 padding;
  u64 connection;
};
#define LOG_CONTEXT 40  // ngx_log_t
#define LOG_REQUEST 8  // ngx_http_log_ctx_t, ngx_mail_log_ctx_t
// What requests and sessions begin with.
#define HTTP_SIGNATURE 0x50545448
#define MAIL_SIGNATURE 0x4c49414d
#define STREAM_SIGNATURE 0x4d525453
#define OWN_BIT 1  // in epoll's data: nginx tells by it whether the connection is still the same

enum upstream_kind { UPSTREAM_UNKNOWN = 0, UPSTREAM_OF_HTTP = 1, UPSTREAM_OF_OTHERS = 2 };

static __always_inline u32 read_user_number(u64 address) {
  u32 number = 0;
  bpf_probe_read_user(&number, sizeof(number), (void *)address);
  return number;
}

// The files of the current process: how many may be open, and where they are.
struct open_files {
  u64 count;  // its lower half
  u64 entries;
};
_Static_assert(offsetof(struct fdtable, fd) == offsetof(struct fdtable, max_fds) + 8, "both are read at once");

static __always_inline void find_open_files(struct open_files *open) {
  u64 files = 0, table = 0;
  READ_FIELD(files, bpf_get_current_task(), struct task_struct, files);
  READ_FIELD(table, files, struct files_struct, fdt);
  bpf_probe_read_kernel(open, sizeof(*open), (void *)(table + offsetof(struct fdtable, max_fds)));
}

// The number is the process's word: it may be any.
static __always_inline u64 file_among(const struct open_files *open, u32 descriptor) {
  u64 file = 0;
  if (descriptor < (u32)open->count)
    bpf_probe_read_kernel(&file, sizeof(file), (void *)(open->entries + 8ull * descriptor));
  return file;
}

static __always_inline u64 socket_among(const struct open_files *open, u32 descriptor) {
  u64 file = file_among(open, descriptor), socket = 0, sock = 0;
  if (!file) return 0;
  // Of another kind of file something else, which is no socket that is known.
  READ_FIELD(socket, file, struct file, private_data);
  READ_FIELD(sock, socket, struct socket, sk);
  return sock;
}

// What a process has epoll keep with this socket; 0: nobody waits for it so.
static __always_inline u64 epoll_data(u64 sock) {
  u64 data = 0;
#ifdef HAVE_epitem
  u64 socket = 0, file = 0, item = 0;
  READ_FIELD(socket, sock, struct sock, sk_socket);
  if (!socket) return 0;
  READ_FIELD(file, socket, struct socket, file);
  if (!file) return 0;
#ifdef HAVE_file_f_ep
  // Since commit 319c15174757 ("epoll: take epitem list out of struct file") (in v5.11).
  u64 items = 0;
  READ_FIELD(items, file, struct file, f_ep);
  if (!items) return 0;
#else
  u64 items = file + offsetof(struct file, f_ep_links);  // a list, whose end is its beginning
#endif
  bpf_probe_read_kernel(&item, sizeof(item), (void *)items);
  if (!item || item == items) return 0;
  item -= offsetof(struct epitem, fllink);
  bpf_probe_read_kernel(&data, sizeof(data),
                        (void *)(item + offsetof(struct epitem, event) + offsetof(struct epoll_event, data)));
#endif
  return data;
}

static __always_inline int is_of_socket(u64 address, u64 sock, const struct open_files *open,
                                        struct nginx_connection *found) {
  if (!address || bpf_probe_read_user(found, sizeof(*found), (void *)address)) return 0;
  return socket_among(open, found->descriptor) == sock;
}

static __always_inline int is_request(u64 address, struct nginx_request *request) {
  if (bpf_probe_read_user(request, sizeof(*request), (void *)address)) return 0;
  return request->signature == HTTP_SIGNATURE;
}

// Leaves the request that an upstream connection is in use for.
static __always_inline enum upstream_kind find_request(struct connection *connection, u64 sock,
                                                       const struct open_files *open, struct nginx_request *request) {
  struct nginx_connection upstream = {};
  if (!is_of_socket(connection->nginx_connection, sock, open, &upstream)) {
    connection->nginx_connection = epoll_data(sock) & ~(u64)OWN_BIT;
    if (!is_of_socket(connection->nginx_connection, sock, open, &upstream)) return UPSTREAM_UNKNOWN;
  }
  if (is_request(upstream.data, request)) return UPSTREAM_OF_HTTP;
  u64 context = read_user_word(upstream.log + LOG_CONTEXT);
  if (is_request(read_user_word(context + LOG_REQUEST), request)) return UPSTREAM_OF_HTTP;
  if (request->signature == MAIL_SIGNATURE || read_user_number(context) == STREAM_SIGNATURE) return UPSTREAM_OF_OTHERS;
  return UPSTREAM_UNKNOWN;
}

static __always_inline void tally_upstream(u32 pid, enum upstream_kind kind) {
  struct upstream_tally *tally = upstream_tallies.lookup(&pid);
  if (!tally) {
    struct upstream_tally nothing = {};
    upstream_tallies.insert(&pid, &nothing);
    tally = upstream_tallies.lookup(&pid);
    if (!tally) return;
  }
  if (kind) tally->found++;
  else tally->lost++;
}

// A request is sent: it is for the one that the client's connection has in hand.
static __always_inline void own_in_nginx(struct connection *connection, u64 sock, u64 pid_tid) {
  struct nginx_request request = {};
  struct open_files open = {};
  find_open_files(&open);
  enum upstream_kind kind = find_request(connection, sock, &open, &request);
  tally_upstream(pid_tid >> 32, kind);
  if (kind != UPSTREAM_OF_HTTP) return;
  u64 descriptor_at = request.connection + offsetof(struct nginx_connection, descriptor);
  u64 asking = socket_among(&open, read_user_number(descriptor_at));
  struct connection *client = connections.lookup(&asking);
  if (!client || client->role != ROLE_SERVER || !is_in_hand(client, client->position)) return;
  connection->parent_connection = client->id;
  connection->parent_position = client->position;
  connection->parent_evidence = LINK_UPSTREAM;
}
