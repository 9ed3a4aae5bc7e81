// Where the bytes of a call lie, as the kernel's own iterators have it: in the process's memory, or in pages of the
// kernel (sendfile, splice, buffers that io_uring has registered). The kernel has checked these addresses.

// bpf_probe_read, which reads from the process below TASK_SIZE and from the kernel above: x86-64 and arm64 have it.
static long (*read_anywhere)(void *to, u32 length, const void *from) = (void *)4;
#define READ_MOVED read_anywhere

enum memory_kind {
  MEMORY_UNKNOWN = 0,  // of a kind that is not read: only counted
  MEMORY_BYTES = 1,
  MEMORY_VECTORS = 2,  // struct iovec, or struct kvec, which looks alike
  MEMORY_PAGES = 3,    // struct bio_vec
  MEMORY_PIPE = 4,     // struct pipe_buffer, in a ring
};

static __always_inline u32 kind_of_iterator(const struct iov_iter *iterator) {
#ifdef HAVE_iov_iter_iter_type
  u32 type = iterator->iter_type;
#else
  // Until commit 8cd54c1c8480 ("iov_iter: separate direction from flavour") (in v5.14) the lowest bit is the direction.
  u32 type = iterator->type & ~1u;
#endif
  switch (type) {
#ifdef ENUM_ITER_UBUF
    case ENUM_ITER_UBUF:
      return MEMORY_BYTES;
#endif
    case ENUM_ITER_IOVEC:
    case ENUM_ITER_KVEC:
      return MEMORY_VECTORS;
    case ENUM_ITER_BVEC:
      return MEMORY_PAGES;
  }
  return MEMORY_UNKNOWN;
}

// At entry: the call will move the iterator on.
static __always_inline void remember_iterator(struct open_call *open, u64 message) {
  struct iov_iter iterator = {};
  bpf_probe_read_kernel(&iterator, sizeof(iterator), (void *)(message + offsetof(struct msghdr, msg_iter)));
  open->kind = kind_of_iterator(&iterator);
  open->address = (u64)iterator.kvec;  // all kinds have their pointer in the same place
  open->skipped = iterator.iov_offset;
  open->pieces = iterator.nr_segs;
}

static __always_inline void remember_pipe(struct open_call *open, u64 pipe) {
  open->kind = MEMORY_PIPE;
  open->pieces = 0;
  bpf_probe_read_kernel(&open->pieces, sizeof(((struct pipe_inode_info *)0)->head),
                        (void *)(pipe + offsetof(struct pipe_inode_info, head)));
  READ_FIELD(open->ring_size, pipe, struct pipe_inode_info, ring_size);
  READ_FIELD(open->address, pipe, struct pipe_inode_info, bufs);
}

// The kernel's own address of a page's bytes; 0 where it cannot be told.
static __always_inline u64 address_of_page(u64 page) {
  u32 zero = 0;
  u64 map_of_pages = 0, all_memory = 0;
  struct page_places *places = page_places.lookup(&zero);
  if (!places || !places->vmemmap_base || !page) return 0;
  bpf_probe_read_kernel(&map_of_pages, 8, (void *)places->vmemmap_base);
  bpf_probe_read_kernel(&all_memory, 8, (void *)places->page_offset_base);
  return all_memory + (page - map_of_pages) / sizeof(struct page) * PAGE_SIZE;
}

static __always_inline void remember_page(struct open_call *open, u64 page, u64 offset) {
  u64 address = address_of_page(page);
  open->kind = address ? MEMORY_BYTES : MEMORY_UNKNOWN;
  open->address = address;
  open->skipped = offset;
}

// How both a bio_vec and a pipe_buffer begin; but the numbers stand in a different order.
struct page_piece {
  u64 page;
  u64 numbers;
};
_Static_assert(offsetof(struct bio_vec, bv_page) == 0 && offsetof(struct bio_vec, bv_len) == 8, "length first");
_Static_assert(offsetof(struct bio_vec, bv_offset) == 12, "offset second");
_Static_assert(offsetof(struct pipe_buffer, page) == 0 && offsetof(struct pipe_buffer, offset) == 8, "offset first");
_Static_assert(offsetof(struct pipe_buffer, len) == 12, "length second");

// Makes an iovec of each page or pipe buffer. What comes behind them can be counted and not read.
static __always_inline void load_pages(struct scratch *scratch_area, const struct open_call *open) {
  volatile struct call *call = &scratch_area->call;
  u32 is_pipe = open->kind == MEMORY_PIPE;
  u32 count = is_pipe ? MAX_PAGE_PIECES : open->pieces;
  if (count > MAX_PAGE_PIECES) count = MAX_PAGE_PIECES;
  u32 first = is_pipe ? open->pieces : 0, mask = is_pipe ? open->ring_size - 1 : MAX_PAGE_PIECES - 1;
  u32 stride = is_pipe ? sizeof(struct pipe_buffer) : sizeof(struct bio_vec);
  u32 offset_bits = is_pipe ? 0 : 32, length_bits = is_pipe ? 32 : 0;
  // Verifier, "back-edge from insn" (seen on 6.1): LLVM makes two loops of this one unless these are just numbers.
  asm volatile("" : "+r"(first), "+r"(mask), "+r"(stride), "+r"(offset_bits), "+r"(length_bits));
  for (u32 i = 0; i < MAX_PAGE_PIECES; i++) {
    struct page_piece piece = {};
    u64 place = open->address + (u64)((first + i) & mask) * stride;
    if (i < count) bpf_probe_read_kernel(&piece, sizeof(piece), (void *)place);
    u64 address = address_of_page(piece.page);
    u32 length = piece.numbers >> length_bits, offset = piece.numbers >> offset_bits;
    if (!address && length) call->is_unread = 1;
    scratch_area->pieces[i].iov_base = (void *)(address + offset);
    scratch_area->pieces[i].iov_len = length;
  }
  scratch_area->pieces[MAX_PAGE_PIECES].iov_base = 0;
  scratch_area->pieces[MAX_PAGE_PIECES].iov_len = ~0ul;
  call->pieces = count;
}

static __always_inline void load_vectors(struct scratch *scratch_area, const struct open_call *open) {
  u64 count = open->pieces;
  if (count > MAX_IOVECS) count = MAX_IOVECS;
  u64 length = count * sizeof(struct iovec);
  // Verifier, "R2 min value is negative" (seen on 6.18): LLVM multiplies before it compares. The mask bounds the
  // product.
  asm volatile("%0 &= 0xfff" : "+r"(length));
  bpf_probe_read_kernel(scratch_area->pieces, length, (void *)open->address);
  scratch_area->call.pieces = count;
}

// At return: where the bytes lie that have been moved. Most calls have them in one piece.
static __always_inline void locate_bytes(struct scratch *scratch_area, const struct open_call *open) {
  volatile struct call *call = &scratch_area->call;
  call->pieces = 0;
  call->is_unread = open->kind == MEMORY_UNKNOWN;
  call->address = open->address + open->skipped;
  if (open->kind < MEMORY_VECTORS) return;
  if (open->kind == MEMORY_VECTORS) load_vectors(scratch_area, open);
  else load_pages(scratch_area, open);
  u64 first = (u64)scratch_area->pieces[0].iov_base + open->skipped;
  u64 length = scratch_area->pieces[0].iov_len - open->skipped;
  scratch_area->pieces[0].iov_base = (void *)first;
  scratch_area->pieces[0].iov_len = length;
  if (length < call->bytes) return;
  call->pieces = 0;
  call->address = first;
}

// They are loaded already.
static __always_inline int load_pieces(struct scratch *scratch_area, const struct call *call) { return 1; }
