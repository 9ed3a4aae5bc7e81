// What bcc's own headers would have, in a form that takes less to compile. Every other file comes behind this one.
#pragma once

// Helpers that read memory, under names that bcc does not know: at each mention of its own it would read all symbols of
// the kernel, to see whether there is such a helper. That was a third of the time that compiling took.

static long (*read_user)(void *, u32, const void *) = (void *)BPF_FUNC_probe_read_user;
static long (*read_user_string)(void *, u32, const void *) = (void *)BPF_FUNC_probe_read_user_str;
static long (*read_kernel)(void *, u32, const void *) = (void *)BPF_FUNC_probe_read_kernel;
#define bpf_probe_read_user read_user
#define bpf_probe_read_user_str read_user_string
#define bpf_probe_read_kernel read_kernel

// A map as bcc's BPF_F_TABLE declares it, less what nobody asks for and LLVM would have to optimize: for each map,
// functions that print and read a key and a value, with an argument for each number in them; and a second copy of both
// for BTF. As mere bytes they are one argument. That was a quarter of the time.
#undef BPF_F_TABLE
#define BPF_F_TABLE(table_type, key_type, leaf_type, name, entries, creation_flags)                                    \
  struct name##_table_t {                                                                                              \
    char key[sizeof(key_type)];                                                                                        \
    char leaf[sizeof(leaf_type)];                                                                                      \
    leaf_type *(*lookup)(key_type *);                                                                                  \
    int (*update)(key_type *, leaf_type *);                                                                            \
    int (*insert)(key_type *, leaf_type *);                                                                            \
    int (*delete)(key_type *);                                                                                         \
    void (*call)(void *, int);                                                                                         \
    u32 max_entries;                                                                                                   \
    int flags;                                                                                                         \
  };                                                                                                                   \
  __attribute__((section("maps/" table_type))) struct name##_table_t name = {.flags = (creation_flags),                \
                                                                             .max_entries = (entries)}
