// The bytes of one call: where they lie in the process's memory, and how to copy their beginning and end.

struct call {
  u64 address;  // of the bytes, or of an array of struct iovec
  u64 bytes;    // moved by the call
  u32 pieces;   // 0: `address` is the bytes; else how many iovecs
  u32 is_unread;  // 1: bytes that never were in the process's memory (sendfile)
};

struct prefix {
  u8 bytes[16];
  u32 length;
};

static __always_inline u64 piece_at(const struct call *call, u32 index, u64 *length) {
  struct iovec piece = {};
  bpf_probe_read_user(&piece, sizeof(piece), (void *)(call->address + index * sizeof(piece)));
  *length = piece.iov_len;
  return (u64)piece.iov_base;
}

// The first bytes: enough to tell a request and a response. Of the first pieces the first that is not empty.
static __always_inline void read_prefix(const struct call *call, struct prefix *prefix) {
  u64 address = call->address, length = call->bytes;
  prefix->length = 0;
  if (call->is_unread) return;
  if (call->pieces) {
    length = 0;
#pragma unroll
    for (int i = 0; i < 3; i++) {
      if (!length && i < call->pieces) address = piece_at(call, i, &length);
    }
    if (length > call->bytes) length = call->bytes;
  }
  if (length >= 16) {
    if (bpf_probe_read_user(prefix->bytes, 16, (void *)address)) return;
    prefix->length = 16;
    return;
  }
  u32 short_length = length & 15;
  if (!short_length || bpf_probe_read_user(prefix->bytes, short_length, (void *)address)) return;
  prefix->length = short_length;
}

// Copies the beginning of the call to scratch->payload; returns how many bytes, at most `limit`.
// Stops after a piece that ends a head: what follows in the same call is body.
static __always_inline u32 capture(struct scratch *scratch_area, const struct call *call, u32 limit) {
  u64 wanted = call->bytes < limit ? call->bytes : limit;
  if (call->is_unread) return 0;
  if (!call->pieces) {
    if (wanted > REQUEST_CAPTURE_BYTES) wanted = REQUEST_CAPTURE_BYTES;
    return bpf_probe_read_user(scratch_area->payload, wanted, (void *)call->address) ? 0 : wanted;
  }
  u64 done = 0;
  for (u32 i = 0; i < MAX_IOVECS; i++) {
    if (i >= call->pieces || done >= wanted) break;
    u64 length = 0, address = piece_at(call, i, &length);
    if (length > wanted - done) length = wanted - done;
    if (length > REQUEST_CAPTURE_BYTES) length = REQUEST_CAPTURE_BYTES;
    u64 offset = done;
    // LLVM re-derives an unclamped copy of the offset unless it is masked where it cannot look.
    asm volatile("%0 &= 0x1fff" : "+r"(offset));
    if (bpf_probe_read_user(scratch_area->payload + offset, length, (void *)address)) break;
    done += length;
    u64 end = done - 4;
    asm volatile("%0 &= 0x1fff" : "+r"(end));
    if (length >= 4 && *(u32 *)(scratch_area->payload + end) == 0x0a0d0a0d) break;
  }
  return done;
}

// Shifts the last bytes of a piece into the rolling tail (oldest first in memory).
static __always_inline u64 roll_tail(u64 tail, u64 address, u64 length) {
  u64 last = 0;
  if (length >= 8) {
    bpf_probe_read_user(&last, 8, (void *)(address + length - 8));
    return last;
  }
  u32 short_length = length & 7;
  if (!short_length) return tail;
  bpf_probe_read_user(&last, short_length, (void *)address);
  return tail >> (8 * short_length) | last << (64 - 8 * short_length);
}

// The last eight bytes of the stream after this call; 0 when they cannot be told.
static __always_inline u64 tail_after(const struct call *call, u64 tail) {
  if (call->is_unread) return 0;
  if (!call->pieces) return roll_tail(tail, call->address, call->bytes);
  u64 left = call->bytes;
  for (u32 i = 0; i < MAX_IOVECS; i++) {
    if (i >= call->pieces || !left) break;
    u64 length = 0, address = piece_at(call, i, &length);
    if (length > left) length = left;
    tail = roll_tail(tail, address, length);
    left -= length;
  }
  return left ? 0 : tail;
}
