// Helpers that read memory, under names that bcc does not know: at each mention of its own it would read all symbols of
// the kernel, to see whether there is such a helper. That was a third of the time that compiling took.
#pragma once

static long (*read_user)(void *, u32, const void *) = (void *)BPF_FUNC_probe_read_user;
static long (*read_user_string)(void *, u32, const void *) = (void *)BPF_FUNC_probe_read_user_str;
static long (*read_kernel)(void *, u32, const void *) = (void *)BPF_FUNC_probe_read_kernel;
#define bpf_probe_read_user read_user
#define bpf_probe_read_user_str read_user_string
#define bpf_probe_read_kernel read_kernel
