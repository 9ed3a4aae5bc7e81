// Follows the chunked framing of a message (RFC 9112 section 7.1): its payload's size and its end, to the byte.
//
// Nothing here knows whether a message is chunked; user space does. A body is followed as long as it reads like
// chunks from its first byte on, and given up at the first byte that does not. Only size lines and trailers are read;
// what lies between is stepped over. What follows a request's last chunk in the same call is captured as a head.

// One byte of a size line. All that is known of the line lies in memory, so that it may come in pieces, and so that the
// verifier sees each byte alike.
static __always_inline void read_size_byte(struct chunks *chunks, u8 byte) {
  u32 digit = hex_digit(byte), digits = chunks->digits, size = chunks->left_bytes;
  if (byte == '\n' && digits) {
    chunks->payload_bytes += size;
    chunks->left_bytes = size ? size + 2 : 0;
    chunks->digits = 0;
    chunks->state = size ? CHUNKS_DATA : CHUNKS_LAST;
  } else if (digits & SIZE_EXTENSION) {
    return;
  } else if (digit < 16 && digits < 7) {
    chunks->left_bytes = size << 4 | digit;
    chunks->digits = digits + 1;
  } else if (byte == ';' && digits) {
    chunks->digits = SIZE_EXTENSION;
  } else if ((byte == '\r' || byte == ' ' || byte == '\t') && digits) {
    chunks->digits = SIZE_SPACE;
  } else {
    chunks->state = CHUNKS_OFF;  // not a size, or one of 256 MB or more
  }
}

// One byte behind the last size line. `left_bytes` is 1 behind a carriage return that begins a line.
static __always_inline void read_trailer_byte(struct chunks *chunks, u8 byte) {
  u32 is_after_return = chunks->left_bytes, is_line_begin = chunks->state == CHUNKS_LAST;
  chunks->left_bytes = 0;
  if (byte == '\n') {
    chunks->state = is_line_begin ? CHUNKS_ENDED : CHUNKS_LAST;
  } else if (byte == '\r' && is_line_begin && !is_after_return) {
    chunks->left_bytes = 1;
  } else {
    chunks->state = CHUNKS_TRAILER;
  }
}

// One step through the piece in hand; returns how many bytes it took.
static __always_inline u64 chunk_step(struct chunks *chunks, u64 address, u64 length) {
  u64 taken = 0;
  u8 byte = 0, state = chunks->state;
  if (state == CHUNKS_HEAD || state == CHUNKS_DATA) {
    taken = chunks->left_bytes < length ? chunks->left_bytes : length;
    chunks->left_bytes -= taken;
    if (!chunks->left_bytes) chunks->state = CHUNKS_SIZE;
    return taken;
  }
  if (READ_MOVED(&byte, 1, (void *)address)) chunks->state = CHUNKS_OFF;
  else if (state == CHUNKS_SIZE) read_size_byte(chunks, byte);
  else if (state == CHUNKS_LAST || state == CHUNKS_TRAILER) read_trailer_byte(chunks, byte);
  else chunks->state = CHUNKS_OFF;  // bytes behind the end: not one response
  return 1;
}

// A round through what this call moved. The place in it is kept in memory, not in registers, so that the steps look
// alike to the verifier. `place->left_bytes` tells how much was not gone through.
static __always_inline void follow_chunks(struct scratch *scratch_area, const struct call *call, u32 is_request) {
  struct chunks *chunks = &scratch_area->chunks;
  volatile struct chunk_place *place = &scratch_area->chunk_place;
  place->rounds++;
  if (!place->is_begun) {
    place->is_begun = 1;
    place->left_bytes = call->bytes;
    place->piece = 0;
    place->offset = 0;
  }
  if (call->is_unread) {
    // sendfile inside a chunk: only its size matters.
    place->left_bytes = 0;
    if (chunks->state == CHUNKS_DATA && call->bytes <= chunks->left_bytes) {
      chunks->left_bytes -= call->bytes;
      if (!chunks->left_bytes) chunks->state = CHUNKS_SIZE;
    } else {
      chunks->state = CHUNKS_OFF;
    }
    return;
  }
  for (u32 step = 0; step < MAX_CHUNK_STEPS; step++) {
    u64 length = call->bytes, address = call->address, offset = place->offset;
    if (!place->left_bytes) break;
    if (is_request && chunks->state == CHUNKS_ENDED) break;
    if (call->pieces) address = piece_at(scratch_area, place->piece, &length);
    if (offset >= length) {
      place->piece++;
      place->offset = 0;
      if (place->piece >= MAX_IOVECS) {
        chunks->state = CHUNKS_OFF;
        return;
      }
      continue;
    }
    length -= offset;
    if (length > place->left_bytes) length = place->left_bytes;
    u64 taken = chunk_step(chunks, address + offset, length);
    if (chunks->state == CHUNKS_OFF) return;
    place->offset = offset + taken;
    place->left_bytes -= taken;
  }
}

// What of a request's call is to be captured, now that it is known how far its chunks go. What stands behind their end
// is; else what would be if nobody had followed them, for a body of known length may read like chunks.
static __always_inline enum go_on capture_after_all(struct scratch *scratch_area, struct connection *connection) {
  const struct call *call = &scratch_area->call;
  volatile struct head_block *block = &scratch_area->head_block;
  u64 offset = 0, told = scratch_area->told_bytes;
  u32 is_of_end = 0, state = connection->chunks[REQUEST_CHUNKS].state;
  if (state == CHUNKS_ENDED) {
    offset = call->bytes - scratch_area->chunk_place.left_bytes;
    if (offset >= call->bytes) return GO_ON_WITH_NOTHING;
    connection->flags &= ~(CONNECTION_REQUEST_HEAD_DONE | CONNECTION_REQUEST_HEAD_ENDED);
    connection->flags |= CONNECTION_PIPELINED;
    connection->request_captured = 0;
    if (offset >= told) {
      connection->request_head_last = 0;
    } else {
      // A record has told of that place, which user space finds in what it captured.
      connection->chunks[REQUEST_CHUNKS].state = CHUNKS_OFF;
      offset = told;
    }
  } else if (told) {
    return GO_ON_WITH_NOTHING;
  } else if (connection->state == STATE_RESPONSE || connection->request_captured >= wanted_request_bytes(connection)) {
    if (call->pieces) return GO_ON_WITH_NOTHING;
    if (connection->state != STATE_RESPONSE) {
      if (state != CHUNKS_OFF || !ends_like_head(call)) return GO_ON_WITH_NOTHING;
      connection->flags |= CONNECTION_PIPELINED;
    }
    if (call->bytes > LATE_CAPTURE_BYTES) offset = call->bytes - LATE_CAPTURE_BYTES;
    is_of_end = 1;
  }
  if (offset >= call->bytes || call->is_unread || connection->flags & CONNECTION_UNREPORTED) return GO_ON_WITH_NOTHING;
  u32 captured = capture_from(scratch_area, call, offset);
  if (is_of_end) {
    send_captured(scratch_area, connection, RECORD_REQUEST_MORE, captured, call->bytes, 0, FLAG_PAYLOAD_IS_END);
    return GO_ON_WITH_NOTHING;
  }
  block->offset = offset;
  block->captured = captured;
  block->kind = RECORD_REQUEST_MORE;
  // There is a bound to how often programs go on with one another: what is not told then is not known.
  block->is_behind_chunks = connection->chunks[REQUEST_CHUNKS].state == CHUNKS_ENDED;
  if (block->is_behind_chunks) connection->chunks[REQUEST_CHUNKS].state = CHUNKS_OFF;
  scratch_area->chunk_place.is_begun = state != CHUNKS_OFF && state != CHUNKS_ENDED;
  return GO_ON_WITH_HEADS;
}

static __always_inline enum go_on read_chunks(struct scratch *scratch_area) {
  u64 sock = scratch_area->sock;
  struct connection *connection = connections.lookup(&sock);
  if (!connection) return GO_ON_WITH_NOTHING;
  int is_request = scratch_area->call.is_inbound == (connection->role == ROLE_SERVER);
  // Through memory, and by an index: the verifier follows the code behind once, not once for each direction.
  *(volatile u64 *)&scratch_area->chunks_index = is_request ? REQUEST_CHUNKS : RESPONSE_CHUNKS;
  u64 index = *(volatile u64 *)&scratch_area->chunks_index;
  asm volatile("%0 &= 1" : "+r"(index));
  struct chunks *chunks = &scratch_area->chunks;
  if (!scratch_area->chunk_place.is_begun) *chunks = connection->chunks[index];
  follow_chunks(scratch_area, &scratch_area->call, index == REQUEST_CHUNKS);
  u64 left = scratch_area->chunk_place.left_bytes;
  if (left && chunks->state != CHUNKS_OFF && !(index == REQUEST_CHUNKS && chunks->state == CHUNKS_ENDED)) {
    // Another round, if there is to be one: until it is through, nothing is known.
    connection->chunks[index].state = CHUNKS_OFF;
    if (scratch_area->chunk_place.rounds < MAX_CHUNK_ROUNDS) return GO_ON_WITH_CHUNKS;
    chunks->state = CHUNKS_OFF;
  }
  connection->chunks[index] = *chunks;
  if (index == REQUEST_CHUNKS) {
    connection->flags |= CONNECTION_UNTOLD;
    if (capture_after_all(scratch_area, connection) == GO_ON_WITH_HEADS) return GO_ON_WITH_HEADS;
    if (connection->state == STATE_RESPONSE) write_progress(connection, 0);
    return GO_ON_WITH_NOTHING;
  }
  // The record of this call was sent before.
  if (chunks->payload_bytes || chunks->state >= CHUNKS_LAST) connection->flags |= CONNECTION_UNTOLD;
  write_progress(connection, 0);
  return GO_ON_WITH_NOTHING;
}
