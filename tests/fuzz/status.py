"""What listens at the status socket may send anything: printable lines, or a ValueError that says so."""

from otel_ebpf.status_text import status_lines


def fuzz(data: bytes) -> None:
    try:
        lines = status_lines(data)
    except ValueError as error:
        str(error).encode("utf-8", "backslashreplace")
        return
    assert all(line.isprintable() for line in lines)
    assert sum(map(len, lines)) < 1000 + 100 * len(data)
