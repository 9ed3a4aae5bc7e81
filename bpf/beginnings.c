// A request begins that takes a program of its own: to find whose work it is, in Node, or its parent, in nginx.

// In Node also of a call of no bytes, which TLS will send later.
static __always_inline enum go_on begin_request(struct scratch *scratch_area, u64 pid_tid) {
  struct connection *connection = connections.lookup(&scratch_area->sock);
  if (!connection) return GO_ON_WITH_NOTHING;
  if (runs_node(pid_tid)) own_in_node(scratch_area, connection, pid_tid);
  else own_in_nginx(connection, scratch_area->sock, pid_tid);
  if (!scratch_area->call.bytes) return GO_ON_WITH_NOTHING;
  return tell_plain_bytes(scratch_area, connection, &scratch_area->call, &scratch_area->prefix);
}
