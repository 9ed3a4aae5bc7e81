// The header that a proxy may send before a connection's first byte: whose connection it passes on (the PROXY protocol,
// https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt, sections 2.1 and 2.2). It is stepped over: what
// follows is the stream as if there were no proxy.

#define SHORTEST_PROXY_LINE 15  // "PROXY UNKNOWN\r\n"
#define MAX_PROXY_LINE 107  // version 1: a line of so many bytes at most, with its end
#define PROXY_LINE 0x2059584f5250ull /* "PROXY " */
#define PROXY_LINE_MASK 0xffffffffffffull
#define PROXY_SIGNATURE 0x510a0d000a0d0a0dull /* version 2: "\r\n\r\n\0\r\nQ" */
#define PROXY_SIGNATURE_REST 0x0a544955 /* "UIT\n" */
#define PROXY_BINARY_BYTES 16  // of version 2, with the length of what follows

// How long the header is that these bytes begin with; 0: they begin with none.
static __always_inline u32 proxy_header_bytes(struct scratch *scratch_area, const struct call *call,
                                              const struct prefix *prefix) {
  u64 first = *(u64 *)prefix->bytes, length = call->bytes;
  if (prefix->length < SHORTEST_PROXY_LINE) return 0;
  if (prefix->length >= PROXY_BINARY_BYTES && first == PROXY_SIGNATURE &&
      *(u32 *)(prefix->bytes + 8) == PROXY_SIGNATURE_REST)
    return PROXY_BINARY_BYTES + ((u32)prefix->bytes[14] << 8 | prefix->bytes[15]);
  if ((first & PROXY_LINE_MASK) != PROXY_LINE || (prefix->bytes[6] != 'T' && prefix->bytes[6] != 'U')) return 0;
  if (length > MAX_PROXY_LINE) length = MAX_PROXY_LINE;
  AT_MOST(length, MAX_PROXY_LINE);
  if (READ_MOVED(scratch_area->payload, length, (void *)prefix->address)) return 0;
  // To memory, so that every turn looks alike to the verifier. As many turns for every length: behind it are the bytes
  // of another call.
  volatile u32 *found = (volatile u32 *)&scratch_area->report.limit_bytes;
  *found = 0;
  for (u32 i = 0; i < MAX_PROXY_LINE; i++) {
    if (scratch_area->payload[i] == '\n') {
      *found = i + 1;
      break;
    }
  }
  u32 bytes = *found;
  return bytes <= length ? bytes : 0;
}

// Of a connection's first bytes those of the header are taken off the call. Returns 1 when nothing is left of it. The
// rest of a header that comes in pieces is still to come: until the first exchange, request_bytes counts it.
static __always_inline int skip_proxy_header(struct scratch *scratch_area, struct connection *connection,
                                             struct prefix *prefix, u32 service_pid) {
  volatile struct call *call = &scratch_area->call;
  u64 left = connection->request_bytes, moved = call->bytes;
  if (!left) left = proxy_header_bytes(scratch_area, &scratch_area->call, prefix);
  if (!left) return 0;
  if (left >= moved) {
    connection->request_bytes = left - moved;
    return 1;
  }
  connection->request_bytes = 0;
  if (call->pieces) {
    if (scratch_area->pieces[0].iov_len <= left) return 0;  // beyond the first piece it is not looked for
    scratch_area->pieces[0].iov_base = (void *)((u64)scratch_area->pieces[0].iov_base + left);
    scratch_area->pieces[0].iov_len -= left;
  } else {
    call->address += left;
  }
  call->bytes = moved - left;
  if (read_prefix(scratch_area, &scratch_area->call, prefix)) return 0;
  lose_bytes(connection, service_pid);
  return 1;
}
