"""A TLS library in which some numbers are not the linker's: it is read, or refused in one line."""

import struct
from io import BytesIO

from otel_ebpf.probe.tls_functions import TlsLibrary
from otel_ebpf.probe.tls_library import NoTlsError, UnreadableTlsError, inspect
from tests.unit.probe.tls_libraries import changed, content

_CHANGE = struct.Struct("<BHBQ")


def fuzz(data: bytes) -> None:
    whole = data[: len(data) // _CHANGE.size * _CHANGE.size]
    rest = data[len(whole) :]
    length = int.from_bytes(rest, "little") % len(content()) if rest else None
    try:
        found = inspect(BytesIO(changed(_CHANGE.iter_unpack(whole), length)))
    except NoTlsError:
        return
    except UnreadableTlsError as error:
        assert [str(error)] == str(error).splitlines()
        return
    check(found)


def check(found: TlsLibrary) -> None:
    """What the kernel is told is within the bounds of its struct."""
    layout = found.layout
    for offset in (layout.state_pointer, layout.random, layout.server_flag, layout.read_bio):
        assert 0 <= offset <= 0xFFFF
    assert 0 <= layout.server_mask <= 0xFFFFFFFF
    for function in found.functions:
        assert function.count_argument in (0, 4, 5)
        assert all(0 <= place < 1 << 64 for place in (function.offset, *function.result_offsets))
