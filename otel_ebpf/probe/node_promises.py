"""Where to put probes on promises within the V8 of a Node program.

In:   the functions of an official build of Node
Out:  Promises; UnreadableTlsError that says what stands in the way
Owns: nothing

  jobs       the call of Execution::TryRunMicrotasks in MicrotaskQueue::RunMicrotasks: (isolate, queue)
  jobs_end   the call there that ends its SuppressMicrotaskExecutionScope
  job        PromiseFulfillReactionJob and PromiseRejectReactionJob: the handler in rbx, the promise that it makes in rcx
  other_job  PromiseResolveThenableJob
  then       PerformPromiseThen: the promise that is waited for in rax, the handlers in rbx and rcx, the promise that they
             make in rdx
  then_end   the jump before PromisePrototypeThen's return: the promise in rax
  collected  Heap::GarbageCollectionEpilogueInSafepoint: where objects were moved from can still be read. Where a program
             allocates little, V8 gives that memory back here, from another thread

V8 walks the addresses that its builtins return to, so none of these is a return probe; each is an instruction that the
kernel emulates, before anything is done to the registers that are read there.
"""

from itertools import pairwise

from iced_x86 import FlowControl, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register, RegisterExt

from otel_ebpf.probe.elf_image import ElfImage, UnreadableTlsError
from otel_ebpf.probe.node_findings import Promises

_RUN = "_ZN2v88internal14MicrotaskQueue13RunMicrotasksEPNS0_7IsolateE"
_TRY = "_ZN2v88internal9Execution16TryRunMicrotasksEPNS0_7IsolateEPNS0_14MicrotaskQueueE"
_SUPPRESSED = "_ZN2v87Isolate31SuppressMicrotaskExecutionScopeD1Ev"
_COLLECTED = "_ZN2v88internal4Heap36GarbageCollectionEpilogueInSafepointENS0_16GarbageCollectorE"
_THEN, _PROTOTYPE_THEN = "Builtins_PerformPromiseThen", "Builtins_PromisePrototypeThen"
_JOBS = ("Builtins_PromiseFulfillReactionJob", "Builtins_PromiseRejectReactionJob")
_OTHER_JOB = "Builtins_PromiseResolveThenableJob"
NAMES = (_RUN, _TRY, _SUPPRESSED, _COLLECTED, _THEN, _PROTOTYPE_THEN, *_JOBS, _OTHER_JOB)
_READ = frozenset({Register.RAX, Register.RBX, Register.RCX, Register.RDX})
_MOST_BUILTIN_BYTES = 8192
_FACTS = InstructionInfoFactory()


def find_promises(image: ElfImage) -> Promises:
    if lacking := [name for name in NAMES if name not in image]:
        raise UnreadableTlsError(f"its symbols lack {', '.join(lacking)}")
    return Promises(
        jobs=image.offset(_call(image, _RUN, _TRY)),
        jobs_end=image.offset(_call(image, _RUN, _SUPPRESSED)),
        job=tuple(image.offset(_begin(image, name)) for name in _JOBS),
        other_job=image.offset(_begin(image, _OTHER_JOB)),
        then=image.offset(_begin(image, _THEN)),
        then_end=image.offset(_end(image, _PROTOTYPE_THEN)),
        collected=image.offset(_begin(image, _COLLECTED)),
    )


def _call(image: ElfImage, caller: str, called: str) -> int:
    """The only one."""
    calls = [
        instruction.ip
        for instruction in image.code(caller)
        if instruction.mnemonic == Mnemonic.CALL and instruction.near_branch_target == image.address(called)
    ]
    if len(calls) != 1:
        raise UnreadableTlsError(f"{caller} calls {called} {len(calls)} times")
    return calls[0]


def _begin(image: ElfImage, name: str) -> int:
    """The first instruction that is emulated, as long as all ways lead there with what is read as it was given."""
    for at, instruction in enumerate(image.code(name)):
        is_push = instruction.mnemonic == Mnemonic.PUSH and instruction.op0_kind == OpKind.REGISTER
        if (is_push and not at) or instruction.flow_control == FlowControl.CONDITIONAL_BRANCH:
            return instruction.ip
        written = {
            RegisterExt.full_register(used.register)
            for used in _FACTS.info(instruction).used_registers()
            if used.access not in (OpAccess.READ, OpAccess.COND_READ)
        }
        if instruction.flow_control != FlowControl.NEXT or written & _READ:
            break
    raise UnreadableTlsError(f"{name} has no place where a probe is cheap")


def _end(image: ElfImage, name: str) -> int:
    """Arguments are taken off the stack in two ways, as there are more of them or not: the jump between the two."""
    code = list(image.code(name, _MOST_BUILTIN_BYTES))
    found = [
        before.ip
        for before, instruction in pairwise(code)
        if instruction.flow_control == FlowControl.RETURN
        and instruction.op_count
        and before.flow_control == FlowControl.CONDITIONAL_BRANCH
    ]
    returns = sum(instruction.flow_control == FlowControl.RETURN for instruction in code)
    if len(found) != 1 or returns != 2:
        raise UnreadableTlsError(f"{name} returns in {returns} ways")
    return found[0]
