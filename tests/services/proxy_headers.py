"""What a proxy sends before a connection's first byte, by the PROXY protocol.

In:   for version 2 what stands behind the addresses
Out:  headers
Owns: nothing
"""

import socket
import struct

VERSION_1 = b"PROXY TCP4 203.0.113.9 192.0.2.1 50000 443\r\n"
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def version_2(more: bytes = b"", command: int = 0x21) -> bytes:
    """TCP over IPv4, and what else stands behind the addresses."""
    said = socket.inet_aton("203.0.113.9") + socket.inet_aton("192.0.2.1") + struct.pack(">HH", 50_000, 443) + more
    return SIGNATURE + struct.pack(">BBH", command, 0x11, len(said)) + said
