"""What of a service cannot be seen, in words for `otel-ebpf status`.

In:   its account, which has what the kernel counted; what the probe found in its processes
Out:  one line for each
Owns: the words for what the probe finds
"""

from collections.abc import Mapping, Sequence

from otel_ebpf.exchanges.ledger import Account

_SHOWN_PIDS = 8
_WORDS = {
    "io_uring": "io_uring is set up in {}: what moves through it is not seen",
    "32-bit": "32-bit code runs in {}: its system calls are not read",
}
_TLS = "tls "


def not_visible(account: Account, hidden: Mapping[str, Sequence[int]]) -> list[str]:
    counted = [f"{count} {what}" for what, count in account.not_visible.items()]
    return counted + [_line(what, pids) for what, pids in sorted(hidden.items())]


def _line(what: str, pids: Sequence[int]) -> str:
    if what.startswith(_TLS):
        return f"{what.removeprefix(_TLS)} is loaded in {_processes(pids)}: TLS through it is not read"
    return _WORDS.get(what, what + " in {}").format(_processes(pids))


def _processes(pids: Sequence[int]) -> str:
    shown = ", ".join(map(str, pids[:_SHOWN_PIDS]))
    more = f" and {len(pids) - _SHOWN_PIDS} more" if len(pids) > _SHOWN_PIDS else ""
    return f"process{'' if len(pids) == 1 else 'es'} {shown}{more}"
