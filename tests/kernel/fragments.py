"""Small BPF sources for tests of the way from C to a running program.

`on_sys_exit` looks only at the process whose number is in PID, so that other tests' processes change nothing.
"""

import os

from otel_ebpf.probe.programs import BPF_PROG_TYPE_RAW_TRACEPOINT, ProgramRow, Source

GETPPID = {"x86_64": 110, "aarch64": 173}[os.uname().machine]

SMALL = Source(
    """
#line 1 "small.c"
struct seen { u32 pid; u32 tgid_by_struct; u64 call_number; };
BPF_TABLE("hash", u32, u64, calls, 64);
BPF_TABLE("percpu_array", u32, u64, counters, 2);
BPF_F_TABLE("array", u32, u64, progress, 4, BPF_F_MMAPABLE);
BPF_RINGBUF_OUTPUT(seen_calls, 4);

int on_sys_exit(struct bpf_raw_tracepoint_args *ctx) {
  u32 pid = bpf_get_current_pid_tgid() >> 32, zero = 0, one = 1;
  if (pid != PID) return 0;
  u64 call_number = 0;
#ifdef __x86_64__
  bpf_probe_read_kernel(&call_number, 8, (void *)(ctx->args[0] + offsetof(struct pt_regs, orig_ax)));
#else
  s32 number = 0;
  bpf_probe_read_kernel(&number, 4, (void *)(ctx->args[0] + offsetof(struct pt_regs, syscallno)));
  call_number = number;
#endif
  if (call_number != GETPPID) return 0;
  u64 *calls_so_far = calls.lookup_or_try_init(&pid, &(u64){0});
  if (calls_so_far) __sync_fetch_and_add(calls_so_far, 1);
  u64 *counter = counters.lookup(&one);
  if (counter) (*counter)++;
  u64 *mapped = progress.lookup(&zero);
  if (mapped) (*mapped)++;
  struct seen *seen = seen_calls.ringbuf_reserve(sizeof(*seen));
  if (!seen) return 0;
  seen->pid = pid;
  seen->call_number = call_number;
  bpf_probe_read_kernel(&seen->tgid_by_struct, 4,
                        (void *)((u64)bpf_get_current_task() + offsetof(struct task_struct, tgid)));
  seen_calls.ringbuf_submit(seen, BPF_RB_NO_WAKEUP);
  return 0;
}
"""
)

SMALL_ROWS = (ProgramRow("on_sys_exit", BPF_PROG_TYPE_RAW_TRACEPOINT, "sys_exit"),)


def program(body: str, before: str = "") -> Source:
    return Source(f'#line 1 "wrong.c"\n{before}\nint on_sys_exit(struct bpf_raw_tracepoint_args *ctx) {{\n{body}\n}}\n')
