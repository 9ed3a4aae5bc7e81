// From a descriptor to its socket, and from a socket to its addresses.

#define AF_UNIX 1
#define AF_INET 2
#define AF_INET6 10
#define SOCK_STREAM 1
#define IPPROTO_TCP 6
#define ENETUNREACH_ERROR 101
#define ETIMEDOUT_ERROR 110
#define EHOSTUNREACH_ERROR 113
#define MODE_FORMAT 0170000
#define MODE_SOCKET 0140000

// The struct file behind a descriptor of the current process, through its file table.
static __always_inline u64 file_of_descriptor(u32 descriptor) {
  u64 files = 0, table = 0, entries = 0, file = 0;
  READ_FIELD(files, bpf_get_current_task(), struct task_struct, files);
  READ_FIELD(table, files, struct files_struct, fdt);
  READ_FIELD(entries, table, struct fdtable, fd);
  bpf_probe_read_kernel(&file, sizeof(file), (void *)(entries + 8ull * descriptor));
  return file;
}

// The struct sock behind a descriptor; 0 when it is not a socket.
static __always_inline u64 socket_of_descriptor(u32 descriptor) {
  u64 file = file_of_descriptor(descriptor), inode = 0, socket = 0, sock = 0;
  u16 mode = 0;
  if (!file) return 0;
  READ_FIELD(inode, file, struct file, f_inode);
  READ_FIELD(mode, inode, struct inode, i_mode);
  if ((mode & MODE_FORMAT) != MODE_SOCKET) return 0;
  READ_FIELD(socket, file, struct file, private_data);
  READ_FIELD(sock, socket, struct socket, sk);
  return sock;
}

// Family of a stream socket over TCP or Unix; 0 for all others.
static __always_inline u16 stream_family(u64 sock) {
  u16 family = 0, type = 0;
  READ_FIELD(type, sock, struct sock, sk_type);
  if (type != SOCK_STREAM) return 0;
  READ_FIELD(family, sock, struct sock_common, skc_family);
  return family == AF_UNIX || family == AF_INET || family == AF_INET6 ? family : 0;
}

// TCP's last word on a peer that acknowledges nothing: the plain one, or what the network said meanwhile
// (tcp_write_err).
static __always_inline int is_timeout(u32 error) {
  return error == ETIMEDOUT_ERROR || error == ENETUNREACH_ERROR || error == EHOSTUNREACH_ERROR;
}

// After close() of one descriptor: does another one, of any process, still hold the socket?
static __always_inline int is_still_open(u64 sock) {
  u64 socket = 0, file = 0;
  s64 references = 0;
  READ_FIELD(socket, sock, struct sock, sk_socket);
  if (!socket) return 0;
  READ_FIELD(file, socket, struct socket, file);
#ifdef HAVE_file_f_ref
  // Since commit 90ee6ed776c0 ("fs: port files to file_ref") (in v6.13): one reference is 0, none is negative.
  READ_FIELD(references, file, struct file, f_ref);
  return references >= 0;
#else
  READ_FIELD(references, file, struct file, f_count);
  return references > 0;
#endif
}

// Of a TCP socket: its number of the next byte that this process will write or read. Both ends of a connection number a
// byte alike.
static __always_inline u32 next_tcp_sequence(u64 sock, int is_outbound) {
  u32 sequence = 0;
  if (is_outbound) READ_FIELD(sequence, sock, struct tcp_sock, write_seq);
  else READ_FIELD(sequence, sock, struct tcp_sock, copied_seq);
  return sequence;
}

// Of any stream socket; 0 when it is not known.
static __always_inline u32 next_sequence(u64 sock, int is_outbound) {
  u16 protocol = 0;
  READ_FIELD(protocol, sock, struct sock, sk_protocol);
  return protocol == IPPROTO_TCP ? next_tcp_sequence(sock, is_outbound) : 0;
}

static __always_inline u32 network_namespace_of(u64 sock) {
  u64 net = 0;
  u32 number = 0;
#ifdef HAVE_sock_common_skc_net
  READ_FIELD(net, sock, struct sock_common, skc_net);
  bpf_probe_read_kernel(&number, sizeof(number),
                        (void *)(net + offsetof(struct net, ns) + offsetof(struct ns_common, inum)));
#endif
  return number;
}

static __always_inline void read_endpoints(u64 sock, struct connection *connection) {
  u16 family = connection->family, remote_port = 0;
  if (family != AF_INET && family != AF_INET6) return;
  READ_FIELD(connection->local_port, sock, struct sock_common, skc_num);
  READ_FIELD(remote_port, sock, struct sock_common, skc_dport);
  connection->remote_port = __builtin_bswap16(remote_port);
  if (family == AF_INET) {
    bpf_probe_read_kernel(connection->local_address, 4, (void *)(sock + offsetof(struct sock_common, skc_rcv_saddr)));
    bpf_probe_read_kernel(connection->remote_address, 4, (void *)(sock + offsetof(struct sock_common, skc_daddr)));
  } else {
#ifdef HAVE_sock_common_skc_v6_daddr
    bpf_probe_read_kernel(connection->local_address, 16,
                          (void *)(sock + offsetof(struct sock_common, skc_v6_rcv_saddr)));
    bpf_probe_read_kernel(connection->remote_address, 16, (void *)(sock + offsetof(struct sock_common, skc_v6_daddr)));
#endif
  }
}
