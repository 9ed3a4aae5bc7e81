// Looks for the end of a head in what was captured, and captures on where it is not there yet.
//
// on_sys_exit goes on here when a call did not end with the empty line of a head: a body may follow it, or another
// head, or the head may go on. It is read up to MAX_HEAD_BYTES, in blocks of one record each.

// Less than zero when the end of a head begins at byte `place` of `bytes`; without a branch.
static __always_inline s64 end_begins_at(u64 bytes, int place) {
  return (s64)((bytes << (32 - 8 * place) >> 32) ^ END_OF_HEAD) - 1;
}

// Where in the block the first four places stand of which one is the end of a head; REQUEST_CAPTURE_BYTES: nowhere.
// Four at once, with one branch for all: the verifier follows 8,192 branches at most. Nothing that differs from call
// to call is in a register meanwhile, and the answer goes through memory, so that it follows all of it once.
static __always_inline void find_end_of_head(struct scratch *scratch_area) {
  volatile struct head_block *block = &scratch_area->head_block;
  block->head_end = REQUEST_CAPTURE_BYTES;
  u32 captured = block->captured;
  for (u64 i = 0; i < REQUEST_CAPTURE_BYTES; i += 4) {
    if (i >= captured) break;
    u64 bytes = *(u64 *)(scratch_area->payload + i);
    s64 is_end = end_begins_at(bytes, 0) | end_begins_at(bytes, 1) | end_begins_at(bytes, 2) | end_begins_at(bytes, 3);
    asm volatile("" : "+r"(is_end));
    if (is_end < 0) {
      block->head_end = i;
      break;
    }
  }
}

// Leaves in block->head_end how many bytes of the block belong to the head that ends in it; 0 when none does.
// `last` are the four bytes before the block; at the beginning of a message an empty line ends nothing.
static __always_inline void take_end_of_head(struct scratch *scratch_area, u32 last) {
  volatile struct head_block *block = &scratch_area->head_block;
  u64 at = block->head_end;
  u32 captured = block->captured;
  block->head_end = 0;
  u64 seam = (u64)(*(u32 *)scratch_area->payload) << 32 | last;
#pragma unroll
  for (int i = 1; i <= 3; i++) {
    if (last && captured >= i && (u32)(seam >> (8 * i)) == END_OF_HEAD) {
      block->head_end = i;
      return;
    }
  }
  if (at >= REQUEST_CAPTURE_BYTES) return;
  asm volatile("%0 &= 0x1fff" : "+r"(at));
  u64 bytes = *(u64 *)(scratch_area->payload + at);
#pragma unroll
  for (int i = 0; i < 3; i++) {
    if ((u32)bytes == END_OF_HEAD) break;
    bytes >>= 8;
    at++;
  }
  // What lies behind the captured bytes is of another call.
  if (at + 4 <= captured && (at || last)) block->head_end = at + 4;
}

// The last four bytes, of the block and of what was before it.
static __always_inline u32 last_bytes(struct scratch *scratch_area, u32 last) {
  u64 captured = scratch_area->head_block.captured;
  if (captured < 4) {
    u32 bits = 8 * (captured & 3);
    return ((u64) * (u32 *)scratch_area->payload << 32 | last) >> bits;
  }
  u64 place = captured - 4;
  asm volatile("%0 &= 0x1fff" : "+r"(place));
  return *(u32 *)(scratch_area->payload + place);
}

// Behind a head: does another one begin there? A body may look so; then some of it is captured in vain.
static __always_inline int another_head_follows(struct scratch *scratch_area, int is_response) {
  u64 place = scratch_area->head_block.head_end, captured = scratch_area->head_block.captured;
  asm volatile("%0 &= 0x1fff" : "+r"(place));
  struct prefix prefix = {};
  u64 length = captured - scratch_area->head_block.head_end;
  prefix.length = length < 16 ? length : 16;
  __builtin_memcpy(prefix.bytes, scratch_area->payload + place, 16);
  if (!prefix.length) return 0;
  return is_response ? begins_like_response(&prefix) : begins_like_request(&prefix);
}

// May chunks begin behind the head that ends in the block? What was not captured may.
static __always_inline int chunks_may_follow(struct scratch *scratch_area) {
  u64 place = scratch_area->head_block.head_end;
  if (place >= scratch_area->head_block.captured) return 1;
  asm volatile("%0 &= 0x1fff" : "+r"(place));
  return hex_digit(scratch_area->payload[place]) < 16;
}

// The bytes of the call from `offset` on, as far as they lie in one piece.
static __always_inline u32 capture_from(struct scratch *scratch_area, const struct call *call, u64 offset) {
  u64 address = call->address + offset, length = call->bytes - offset;
  if (call->pieces) {
    scratch_area->last_piece = MAX_IOVECS;
    u64 before = offset;
    for (u32 i = 0; i < MAX_IOVECS; i++) {
      if (i >= call->pieces) break;
      u64 piece_bytes = scratch_area->pieces[i].iov_len;
      if (before < piece_bytes) {
        *(volatile u32 *)&scratch_area->last_piece = i;
        *(volatile u64 *)&scratch_area->last_piece_bytes = before;
        break;
      }
      before -= piece_bytes;
    }
    u64 piece = *(volatile u32 *)&scratch_area->last_piece, in_piece = scratch_area->last_piece_bytes;
    if (piece >= MAX_IOVECS) return 0;
    u64 piece_bytes = 0;
    address = piece_at(scratch_area, piece, &piece_bytes) + in_piece;
    if (length > piece_bytes - in_piece) length = piece_bytes - in_piece;
  }
  return read_what_is_there(scratch_area->payload, length, address);
}

// One block; what is to be done next.
static __always_inline enum go_on read_head(struct scratch *scratch_area) {
  u64 sock = scratch_area->sock;
  struct connection *connection = connections.lookup(&sock);
  if (!connection) return GO_ON_WITH_NOTHING;
  volatile struct head_block *block = &scratch_area->head_block;
  const struct call *call = &scratch_area->call;
  if (block->is_behind_chunks) connection->chunks[REQUEST_CHUNKS] = scratch_area->chunks;
  block->is_behind_chunks = 0;
  find_end_of_head(scratch_area);
  u64 offset = block->offset, captured = block->captured, left = call->bytes - offset - captured;
  int is_response = block->kind == RECORD_RESPONSE;
  take_end_of_head(scratch_area, is_response ? connection->response_head_last : connection->request_head_last);
  u64 head_end = block->head_end;
  int is_another = head_end && another_head_follows(scratch_area, is_response);
  if (is_another && !is_response) connection->flags |= CONNECTION_PIPELINED;
  if (is_response) connection->response_head_last = last_bytes(scratch_area, connection->response_head_last);
  else connection->request_head_last = last_bytes(scratch_area, connection->request_head_last);
  u32 so_far = is_response ? connection->response_captured : connection->request_captured;
  u16 known_end = is_response ? CONNECTION_RESPONSE_HEAD_DONE : CONNECTION_REQUEST_HEAD_ENDED;
  int goes_on = is_another || connection->flags & CONNECTION_PIPELINED || !(head_end || connection->flags & known_end);
  int is_more_wanted = goes_on && captured && left && so_far + captured < MAX_HEAD_BYTES;
  int has_request_ended = head_end && !is_another && !is_response;
  // Of a body whose chunks are followed no more is told than was captured: another request may begin behind it.
  u16 known_ends = CONNECTION_REQUEST_HEAD_ENDED | CONNECTION_REQUEST_HEAD_DONE;
  int is_followed = has_request_ended && !(connection->flags & known_ends) && chunks_may_follow(scratch_area);
  u64 untold = is_more_wanted || is_followed ? left : 0;
  if (!send_captured(scratch_area, connection, block->kind, captured, call->bytes - offset - untold, untold, 0)) {
    after_report(connection, !is_response);
    return GO_ON_WITH_NOTHING;
  }
  scratch_area->told_bytes = offset + captured;
  if (is_response && head_end && !is_another) on_response_head(connection, offset + head_end);
  if (is_followed) on_request_head_end(connection, offset + head_end, call->bytes);
  if (untold) connection->flags |= CONNECTION_UNTOLD;  // of too many pieces the counts alone tell
  if (has_request_ended && head_end == captured && !left) connection->flags |= CONNECTION_REQUEST_HEAD_DONE;
  else if (has_request_ended) connection->flags |= CONNECTION_REQUEST_HEAD_ENDED;
  if (is_more_wanted) {
    block->offset = offset + captured;
    block->captured = capture_from(scratch_area, call, offset + captured);
    if (block->kind == RECORD_REQUEST) block->kind = RECORD_REQUEST_MORE;
    return GO_ON_WITH_HEADS;
  }
  return after_report(connection, !is_response);
}
