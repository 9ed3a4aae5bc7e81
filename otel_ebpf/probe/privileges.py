"""Gives up rights for good, and looks whether they are gone.

In:   a user for the exporter; a list of capabilities for the probe
Out:  nothing, or an AgentError: a process that kept more than it should must not go on
Owns: nothing

Each works on the calling thread, and is called while there is only one. The order matters: the bounding set and the
groups can only be changed before the rights to do so are gone.
"""

import ctypes
import os
import pwd
import struct
import time
from collections.abc import Iterable

from otel_ebpf.errors import AgentError
from otel_ebpf.probe.capabilities import CAPABILITY_NUMBERS, capability_names, effective_capabilities

# include/uapi/linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_KEEPCAPS = 8
_PR_SET_NAME = 15
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522

_THREAD_LEAVES_S = 5

_libc = ctypes.CDLL(None, use_errno=True)
# The kernel refuses some options when an unused argument is not zero in all its 64 bits.
_libc.prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)


def drop_to_user(user: str) -> None:
    """Becomes the user, without any capability, group or way back; for root only."""
    uid, gid = user_and_group(user)
    _require_one_thread("drop privileges")
    could_shrink_bounds = "CAP_SETPCAP" in effective_capabilities()
    try:
        if could_shrink_bounds:
            _shrink_bounding_set(keep=0)
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
        _prctl(_PR_SET_KEEPCAPS, 0)
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        _set_capabilities(0)
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        # Others of the same user must not read what this process reads: every daemon may be `nobody`.
        _prctl(_PR_SET_DUMPABLE, 0)
    except OSError as error:
        raise AgentError(f"cannot become user {user}: {error.strerror}", "Start the agent as root.") from error
    _verify_dropped(uid, gid, could_shrink_bounds)


def limit_capabilities(keep: Iterable[str]) -> frozenset[str]:
    """Keeps no capability but these, in any set; returns those of them that were missing already."""
    wanted = _mask(keep)
    _require_one_thread("limit capabilities")
    allowed = wanted & int(_status()["CapPrm"], 16)
    try:
        if "CAP_SETPCAP" in effective_capabilities():
            _shrink_bounding_set(keep=wanted)
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
        _set_capabilities(allowed)
    except OSError as error:
        raise AgentError(f"cannot limit capabilities: {error.strerror}") from error
    status = _status()
    expected = {"CapPrm": allowed, "CapEff": allowed, "CapInh": 0, "CapAmb": 0}
    wrong = {name: status[name] for name, mask in expected.items() if int(status[name], 16) != mask}
    if wrong:
        raise AgentError(f"cannot limit capabilities: the kernel still reports {wrong}")
    return capability_names(wanted & ~allowed)


def end_with_parent(number: int) -> None:
    """This process gets the signal when its parent ends, however that comes about."""
    _prctl(_PR_SET_PDEATHSIG, number)


def set_process_name(name: str) -> None:
    """As ps and top show it; the kernel keeps 15 bytes."""
    buffer = ctypes.create_string_buffer(name.encode()[:15])
    _prctl(_PR_SET_NAME, ctypes.addressof(buffer))


def user_and_group(user: str) -> tuple[int, int]:
    """The numbers of an unprivileged user, by its name or number."""
    try:
        entry = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
        uid, gid = entry.pw_uid, entry.pw_gid
    except KeyError:
        if not user.isdigit():
            raise AgentError(f"cannot become user {user}: there is none of this name", "Set OTEL_EBPF_USER.") from None
        uid = gid = int(user)
    if uid == 0 or gid == 0:
        raise AgentError(
            f"cannot drop privileges to user {user}: it is root, or of root's group", "Set OTEL_EBPF_USER."
        )
    return uid, gid


def _require_one_thread(what: str) -> None:
    """The kernel counts one that has been joined until it has left."""
    deadline = time.monotonic() + _THREAD_LEAVES_S
    while (count := int(_status()["Threads"])) != 1 and time.monotonic() < deadline:
        time.sleep(0.001)
    if count != 1:
        raise AgentError(f"cannot {what}: {count} threads run already, and each has rights of its own")


def _shrink_bounding_set(keep: int) -> None:
    number = 0
    # The kernel answers EINVAL (-1) after its last capability.
    while (held := _libc.prctl(_PR_CAPBSET_READ, number, 0, 0, 0)) >= 0:
        if held and not keep >> number & 1:
            _prctl(_PR_CAPBSET_DROP, number)
        number += 1


def _set_capabilities(mask: int) -> None:
    """Permitted and effective alike; nothing inheritable."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    data = struct.pack("=6I", low, low, 0, high, high, 0)
    if _libc.capset(header, data) != 0:
        error_number = ctypes.get_errno()
        raise OSError(error_number, os.strerror(error_number))


def _verify_dropped(uid: int, gid: int, bounds_were_shrunk: bool) -> None:
    status = _status()
    expected = {
        "Uid": " ".join([str(uid)] * 4),
        "Gid": " ".join([str(gid)] * 4),
        "Groups": "",
        "NoNewPrivs": "1",
        **{f"Cap{name}": "0" * 16 for name in ("Inh", "Prm", "Eff", "Amb")},
    }
    if bounds_were_shrunk:
        expected["CapBnd"] = "0" * 16
    wrong = {name: status.get(name) for name, value in expected.items() if status.get(name) != value}
    if wrong:
        raise AgentError(f"cannot drop privileges: the kernel still reports {wrong}")
    try:
        os.setresuid(0, 0, 0)
    except PermissionError:
        return
    raise AgentError("cannot drop privileges: this process could become root again")


def _mask(names: Iterable[str]) -> int:
    mask = 0
    for name in names:
        if name not in CAPABILITY_NUMBERS:
            raise ValueError(f"{name} is no capability")
        mask |= 1 << CAPABILITY_NUMBERS[name]
    return mask


def _status() -> dict[str, str]:
    """/proc/self/status, blanks made one."""
    with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
        pairs = (line.partition(":") for line in file)
        return {name: " ".join(value.split()) for name, _, value in pairs}


def _prctl(option: int, argument: int) -> None:
    if _libc.prctl(option, argument, 0, 0, 0) != 0:
        error_number = ctypes.get_errno()
        raise OSError(error_number, os.strerror(error_number))
