// The bytes of one call: how to copy their beginning and end. Where they lie, its backend has said.

static __always_inline u64 piece_at(struct scratch *scratch_area, u64 index, u64 *length) {
  // LLVM re-derives an unclamped copy of the index unless it is masked where it cannot look.
  asm volatile("%0 &= %1" : "+r"(index) : "i"(MAX_IOVECS - 1));
  *length = scratch_area->pieces[index].iov_len;
  return (u64)scratch_area->pieces[index].iov_base;
}

// The first bytes: enough to tell a request and a response. Of the first pieces the first that is not empty. Returns 0
// when they cannot be read: no program of ours may wait for a page that is being moved, or has been taken away since.
static __always_inline int read_prefix(struct scratch *scratch_area, const struct call *call, struct prefix *prefix) {
  u64 address = call->address, length = call->bytes;
  prefix->length = 0;
  if (call->is_unread) return 1;
  if (call->pieces) {
    length = 0;
#pragma unroll
    for (int i = 0; i < 3; i++) {
      if (!length && i < call->pieces) address = piece_at(scratch_area, i, &length);
    }
    if (length > call->bytes) length = call->bytes;
  }
  prefix->address = address;
  if (length >= 16) {
    if (READ_MOVED(prefix->bytes, 16, (void *)address)) return 0;
    prefix->length = 16;
    return 1;
  }
  u32 short_length = length & 15;
  if (!short_length) return 1;
  if (READ_MOVED(prefix->bytes, short_length, (void *)address)) return 0;
  prefix->length = short_length;
  return 1;
}

// LLVM may compare one copy of a value and then use another, which Linux 6.1 does not take to be bounded once it was
// spilled to the stack ("R2 min value is negative"): compare where LLVM cannot look.
#define AT_MOST(value, limit) asm volatile("if %0 <= %1 goto +1\n%0 = %1" : "+r"(value) : "i"(limit))

#define PAGE_BYTES 4096  // the smallest that there are

// Copies them all; or those of the first page, where the page behind it cannot be read. Returns how many.
static __always_inline u64 read_what_is_there(void *to, u64 wanted, u64 address) {
  AT_MOST(wanted, REQUEST_CAPTURE_BYTES);
  if (!READ_MOVED(to, wanted, (void *)address)) return wanted;
  u64 of_page = PAGE_BYTES - (address & (PAGE_BYTES - 1));
  AT_MOST(of_page, PAGE_BYTES);
  return of_page < wanted && !READ_MOVED(to, of_page, (void *)address) ? of_page : 0;
}

// Copies the end of a call in one piece to scratch->payload. Returns how many bytes, at most `limit`.
static __always_inline u32 capture_end(struct scratch *scratch_area, const struct call *call, u32 limit) {
  if (call->is_unread) return 0;
  u64 wanted = call->bytes < limit ? call->bytes : limit;
  u64 address = call->address + call->bytes - wanted;
  AT_MOST(wanted, REQUEST_CAPTURE_BYTES);
  return READ_MOVED(scratch_area->payload, wanted, (void *)address) ? 0 : wanted;
}

// Copies the beginning of the call to scratch->payload. Returns how many bytes, at most `limit`. Stops after a piece
// that ends a head: what follows in the same call is body.
static __always_inline u32 capture(struct scratch *scratch_area, const struct call *call, u32 limit) {
  if (call->is_unread) return 0;
  u64 wanted = call->bytes < limit ? call->bytes : limit;
  AT_MOST(wanted, REQUEST_CAPTURE_BYTES);
  if (!call->pieces) return read_what_is_there(scratch_area->payload, wanted, call->address);
  // In memory and not in registers, so that every turn looks alike to the verifier.
  volatile struct captured *captured = &scratch_area->captured;
  captured->wanted = wanted;
  captured->done = 0;
  for (u32 i = 0; i < MAX_CAPTURED_PIECES; i++) {
    u64 offset = captured->done, left = captured->wanted - offset;
    if (i >= call->pieces || !left) break;
    u64 length = 0, address = piece_at(scratch_area, i, &length);
    if (length > left) length = left;
    asm volatile("%0 &= 0x1fff" : "+r"(offset));
    u64 done = read_what_is_there(scratch_area->payload + offset, length, address);
    captured->done += done;
    if (done < length) break;
    u64 end = captured->done - 4;
    asm volatile("%0 &= 0x1fff" : "+r"(end));
    if (length >= 4 && *(u32 *)(scratch_area->payload + end) == 0x0a0d0a0d) break;
  }
  return captured->done;
}

// Shifts the last bytes of a piece into the rolling tail (oldest first in memory).
static __always_inline u64 roll_tail(u64 tail, u64 address, u64 length) {
  u64 last = 0;
  if (length >= 8) {
    READ_MOVED(&last, 8, (void *)(address + length - 8));
    return last;
  }
  u32 short_length = length & 7;
  if (!short_length) return tail;
  READ_MOVED(&last, short_length, (void *)address);
  return tail >> (8 * short_length) | last << (64 - 8 * short_length);
}

// The last eight bytes of the stream after this call; 0 when they cannot be told.
static __always_inline u64 tail_after(struct scratch *scratch_area, const struct call *call, u64 tail) {
  if (call->is_unread) return 0;
  if (!call->pieces) return roll_tail(tail, call->address, call->bytes);
  // Which piece holds the call's last byte? A call may move less than it was asked to.
  // The answer goes to memory: in registers the verifier would follow each of the 128 ways out of the loop on its own.
  scratch_area->last_piece = MAX_IOVECS;
  u64 left = call->bytes;
  for (u32 i = 0; i < MAX_IOVECS; i++) {
    if (i >= call->pieces) break;
    u64 length = scratch_area->pieces[i].iov_len;
    if (left <= length) {
      *(volatile u32 *)&scratch_area->last_piece = i;
      *(volatile u64 *)&scratch_area->last_piece_bytes = left;
      break;
    }
    left -= length;
  }
  u64 last = *(volatile u32 *)&scratch_area->last_piece;
  if (last >= MAX_IOVECS) return 0;
    // Pieces may be shorter than eight bytes: those before the last one count too.
#pragma unroll
  for (int back = MAX_TAIL_PIECES; back > 0; back--) {
    u64 length = 0, address = piece_at(scratch_area, last - back, &length);
    if (last >= back) tail = roll_tail(tail, address, length);
  }
  u64 length = 0, address = piece_at(scratch_area, last, &length);
  return roll_tail(tail, address, scratch_area->last_piece_bytes);
}
