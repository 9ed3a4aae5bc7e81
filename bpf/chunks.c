// Follows the chunked framing of a response (RFC 9112 section 7.1): its payload's size and its end, to the byte.
//
// Nothing here knows whether a response is chunked; user space does. A body is followed as long as it reads like
// chunks from its first byte on, and given up at the first byte that does not. Only size lines are read; what lies
// between is stepped over.

static __always_inline u32 hex_digit(u8 byte) {
  if (byte >= '0' && byte <= '9') return byte - '0';
  byte |= 0x20;
  return byte >= 'a' && byte <= 'f' ? byte - 'a' + 10 : 16;
}

// One byte of a size line. All that is known of the line lies in the connection, so that it may come in pieces, and
// so that the verifier sees each byte alike.
static __always_inline void read_size_byte(struct connection *connection, u64 address) {
  u8 byte = 0;
  READ_MOVED(&byte, 1, (void *)address);
  u32 digit = hex_digit(byte), digits = connection->chunk_digits, size = connection->chunk_left;
  if (digit < 16 && digits < 7) {
    connection->chunk_left = size << 4 | digit;
    connection->chunk_digits = digits + 1;
  } else if (byte == '\n' && digits) {
    connection->chunk_payload_bytes += size;
    connection->chunk_left = size + 2;
    connection->chunk_digits = 0;
    connection->chunks_state = size ? CHUNKS_DATA : CHUNKS_LAST;
  } else if (byte != '\r' || !digits) {
    connection->chunks_state = CHUNKS_OFF;  // not a size, one of 256 MB or more, or an extension
  }
}

// One step through the piece in hand; returns how many bytes it took.
static __always_inline u64 chunk_step(struct connection *connection, u64 address, u64 length) {
  u64 taken = 0;
  u16 line_end = 0;
  switch (connection->chunks_state) {
    case CHUNKS_HEAD:
    case CHUNKS_DATA:
      taken = connection->chunk_left < length ? connection->chunk_left : length;
      connection->chunk_left -= taken;
      if (!connection->chunk_left) connection->chunks_state = CHUNKS_SIZE;
      return taken;
    case CHUNKS_SIZE:
      read_size_byte(connection, address);
      return 1;
    case CHUNKS_LAST:
      // The two bytes of the empty line may come one at a time; what else comes is a trailer.
      if (connection->chunk_left == 2 && length >= 2) {
        READ_MOVED(&line_end, 2, (void *)address);
        taken = 2;
      } else {
        READ_MOVED(&line_end, 1, (void *)address);
        line_end = connection->chunk_left == 2 ? line_end | '\n' << 8 : line_end << 8 | '\r';
        taken = 1;
      }
      connection->chunk_left -= taken;
      if (line_end != 0x0a0d) connection->chunks_state = CHUNKS_TRAILER;
      else if (!connection->chunk_left) connection->chunks_state = CHUNKS_ENDED;
      return taken;
    case CHUNKS_TRAILER:
      return length;
  }
  connection->chunks_state = CHUNKS_OFF;  // bytes behind the end: not one response
  return length;
}

// All that this call moved. The place in it is kept in memory, not in registers, so that the steps look alike to the
// verifier.
static __always_inline void follow_chunks(struct scratch *scratch_area, struct connection *connection,
                                          const struct call *call) {
  if (call->is_unread) {
    // sendfile inside a chunk: only its size matters.
    if (connection->chunks_state == CHUNKS_DATA && call->bytes <= connection->chunk_left) {
      connection->chunk_left -= call->bytes;
      if (!connection->chunk_left) connection->chunks_state = CHUNKS_SIZE;
    } else {
      connection->chunks_state = CHUNKS_OFF;
    }
    return;
  }
  volatile struct chunk_place *place = &scratch_area->chunk_place;
  place->left_bytes = call->bytes;
  place->piece = 0;
  place->offset = 0;
  for (u32 step = 0; step < MAX_CHUNK_STEPS; step++) {
    u64 length = call->bytes, address = call->address, offset = place->offset;
    if (!place->left_bytes) break;
    if (call->pieces) address = piece_at(scratch_area, place->piece, &length);
    if (offset >= length) {
      place->piece++;
      place->offset = 0;
      if (place->piece >= MAX_IOVECS) break;
      continue;
    }
    length -= offset;
    if (length > place->left_bytes) length = place->left_bytes;
    u64 taken = chunk_step(connection, address + offset, length);
    if (connection->chunks_state == CHUNKS_OFF) return;
    place->offset = offset + taken;
    place->left_bytes -= taken;
  }
  if (place->left_bytes) connection->chunks_state = CHUNKS_OFF;  // more steps than are taken in one call
  else if (connection->chunks_state == CHUNKS_TRAILER && *(u32 *)(connection->tail + 4) == 0x0a0d0a0d)
    connection->chunks_state = CHUNKS_ENDED_BY_TRAILER;
}

static __always_inline void read_chunks(struct scratch *scratch_area) {
  u64 sock = scratch_area->sock;
  struct connection *connection = connections.lookup(&sock);
  if (!connection) return;
  follow_chunks(scratch_area, connection, &scratch_area->call);
  // The record of this call was sent before.
  if (connection->chunk_payload_bytes || connection->chunks_state >= CHUNKS_LAST)
    connection->flags |= CONNECTION_UNTOLD;
  write_progress(connection, 0);
}

// on_sys_exit goes on here with a response whose body may be chunked.
int on_chunks(struct bpf_raw_tracepoint_args *ctx) {
  u32 zero = 0;
  struct scratch *scratch_area = scratch.lookup(&zero);
  if (scratch_area) read_chunks(scratch_area);
  return 0;
}
