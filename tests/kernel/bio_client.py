"""A TLS client made of OpenSSL's own BIOs, by the libssl that this process has loaded.

In:   a connected socket that blocks, with a timeout
Out:  what was sent and received through BIO_write and BIO_read
Owns: the BIOs, until it is left; not the socket
"""

import ctypes
import re
import socket
import ssl
from pathlib import Path
from types import TracebackType

_ADDRESS = ctypes.c_void_p


def _loaded_library(name: str) -> ctypes.CDLL:
    """The file that _ssl uses."""
    assert ssl.OPENSSL_VERSION
    found = re.search(rf"/\S*{name}\S*$", Path("/proc/self/maps").read_text(), re.MULTILINE)
    assert found is not None
    return ctypes.CDLL(found[0])


def _function(library: ctypes.CDLL, name: str, *arguments: type, result: type = _ADDRESS):
    function = library[name]
    function.argtypes, function.restype = arguments, result
    return function


class BioClient:
    def __init__(self, sock: socket.socket) -> None:
        tls, crypto = _loaded_library("libssl"), _loaded_library("libcrypto")
        new_method = _function(tls, "TLS_client_method")
        new_context = _function(tls, "SSL_CTX_new", _ADDRESS)
        new_tls = _function(tls, "BIO_new_ssl", _ADDRESS, ctypes.c_int)
        new_socket = _function(crypto, "BIO_new_socket", ctypes.c_int, ctypes.c_int)
        push = _function(crypto, "BIO_push", _ADDRESS, _ADDRESS)
        self._free_context = _function(tls, "SSL_CTX_free", _ADDRESS, result=ctypes.c_int)
        self._free = _function(crypto, "BIO_free_all", _ADDRESS, result=ctypes.c_int)
        self._write = _function(crypto, "BIO_write", _ADDRESS, ctypes.c_char_p, ctypes.c_int, result=ctypes.c_int)
        self._read = _function(crypto, "BIO_read", _ADDRESS, ctypes.c_char_p, ctypes.c_int, result=ctypes.c_int)
        # The library's own calls on the descriptor wait, which those of a socket with a timeout do not.
        seconds = int(sock.gettimeout() or 60)
        sock.settimeout(None)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            sock.setsockopt(socket.SOL_SOCKET, option, seconds.to_bytes(8, "little") + bytes(8))
        self._context = new_context(new_method())
        self._bio = push(new_tls(self._context, 1), new_socket(sock.fileno(), 0))
        assert self._bio

    def __enter__(self) -> "BioClient":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._free(self._bio)
        self._free_context(self._context)

    def send(self, data: bytes) -> None:
        """The first one is behind the handshake, whose answers the server's thread gives meanwhile."""
        assert len(data) == self._write(self._bio, data, len(data))

    def receive(self, size: int) -> bytes:
        got = b""
        buffer = ctypes.create_string_buffer(size)
        while len(got) < size:
            count = self._read(self._bio, buffer, size - len(got))
            assert count > 0
            got += buffer.raw[:count]
        return got
