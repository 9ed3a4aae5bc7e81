// Where the bytes of a system call lie: in the process's memory. The addresses are its own words, so nothing else is
 // read.

#define READ_MOVED bpf_probe_read_user

// Copies the array of iovecs, so that each piece can be looked at without another read. Returns 0 when it cannot be
// read.
static __always_inline int load_pieces(struct scratch *scratch_area, const struct call *call) {
  u64 count = call->pieces;
  if (count > MAX_IOVECS) count = MAX_IOVECS;
  u64 length = count * sizeof(struct iovec);
  // Verifier, "R2 min value is negative" (seen on 6.18): LLVM multiplies before it compares. The mask bounds the
// product.
  asm volatile("%0 &= 0xfff" : "+r"(length));
  return !bpf_probe_read_user(scratch_area->pieces, length, (void *)call->address);
}
