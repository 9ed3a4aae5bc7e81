"""What is found in a TLS library without running it, held against the same library when it runs."""

import io
import random
import struct
import sys
from collections.abc import Iterator
from ctypes import CDLL, c_int, c_long, c_void_p, create_string_buffer, string_at
from pathlib import Path

import pytest
from cryptography.hazmat.bindings import _rust
from OpenSSL import SSL

from otel_ebpf.probe.tls_functions import NO_STATE_POINTER, Function, TlsLibrary
from otel_ebpf.probe.tls_library import NoTlsError, UnreadableTlsError, inspect
from tests.unit.probe.tls_libraries import changed, content, system_library

PUSHES = range(0x50, 0x58)  # push %rax to push %rdi; with a prefix, those behind


def look_into(path: Path) -> TlsLibrary:
    with path.open("rb") as file:
        return inspect(file)


class System:
    """An object of the system's library in the middle of a handshake, made by its own functions."""

    def __init__(self, is_server: bool) -> None:
        library = CDLL(str(system_library()))
        for name in ("TLS_method", "SSL_CTX_new", "SSL_new", "SSL_get_rbio", "BIO_new", "BIO_s_mem", "BIO_new_socket"):
            getattr(library, name).restype = c_void_p
        self.library = library
        context = c_void_p(library.SSL_CTX_new(c_void_p(library.TLS_method())))
        self.address = library.SSL_new(context)
        method = c_void_p(library.BIO_s_mem())
        library.SSL_set_bio(self.pointer, c_void_p(library.BIO_new(method)), c_void_p(library.BIO_new(method)))
        (library.SSL_set_accept_state if is_server else library.SSL_set_connect_state)(self.pointer)
        library.SSL_do_handshake(self.pointer)

    @property
    def pointer(self) -> c_void_p:
        return c_void_p(self.address)

    def close(self) -> None:
        self.library.SSL_free(self.pointer)

    @property
    def random(self) -> bytes:
        found = create_string_buffer(32)
        assert 32 == self.library.SSL_get_client_random(self.pointer, found, c_long(32))
        return found.raw


@pytest.fixture(params=[False, True], ids=["client", "server"])
def system(request: pytest.FixtureRequest) -> Iterator[System]:
    made = System(request.param)
    yield made
    made.close()


def random_at(address: int, library: TlsLibrary) -> bytes:
    layout = library.layout
    if layout.state_pointer != NO_STATE_POINTER:
        (address,) = struct.unpack("<Q", string_at(address + layout.state_pointer, 8))
    return string_at(address + layout.random, 32)


def is_server(address: int, library: TlsLibrary) -> bool:
    (flag,) = struct.unpack("<I", string_at(address + library.layout.server_flag, 4))
    return bool(flag & library.layout.server_mask)


def test_random_and_role_are_where_the_system_library_keeps_them(system: System) -> None:
    found = look_into(system_library())

    assert system.random == random_at(system.address, found)
    assert bool(system.library.SSL_is_server(system.pointer)) == is_server(system.address, found)


def test_a_client_in_a_handshake_has_a_random() -> None:
    """Otherwise the test above compares nothing with nothing."""
    client = System(is_server=False)

    assert bytes(32) != client.random
    client.close()


def test_the_socket_of_an_object_is_where_the_system_library_keeps_it(system: System) -> None:
    layout = look_into(system_library()).layout

    bio = c_void_p(system.library.BIO_new_socket(c_int(4711), c_int(0)))
    system.library.SSL_set_bio(system.pointer, bio, bio)

    (found,) = struct.unpack("<Q", string_at(system.address + layout.read_bio, 8))
    (method,) = struct.unpack("<Q", string_at(found + layout.bio_method, 8))
    assert bio.value == found == system.library.SSL_get_rbio(system.pointer)
    assert 0x505 == struct.unpack("<I", string_at(method, 4))[0] == system.library.BIO_method_type(bio)
    assert 4711 == struct.unpack("<i", string_at(found + layout.bio_number, 4))[0]


def test_random_and_role_are_where_the_library_of_a_wheel_keeps_them() -> None:
    """The wheel of `cryptography` holds an OpenSSL of its own."""
    found = look_into(Path(_rust.__file__))
    connection = SSL.Connection(SSL.Context(SSL.TLS_METHOD), None)
    connection.set_connect_state()
    with pytest.raises(SSL.WantReadError):
        connection.do_handshake()
    address = int(SSL._ffi.cast("uintptr_t", connection._ssl))

    assert bytes(32) != connection.client_random() == random_at(address, found)
    assert not is_server(address, found)
    connection.set_accept_state()
    assert is_server(address, found)


@pytest.mark.parametrize("path", [system_library(), Path(_rust.__file__)], ids=["system", "wheel"])
def test_probes_are_put_where_the_kernel_emulates_the_instruction(path: Path) -> None:
    """One for reading and one for writing: both public functions come through it, and no call is seen twice.

    And one for sending a file, which the kernel encrypts.
    """
    code, found = path.read_bytes(), look_into(path)

    assert [(False, False), (True, False), (True, True)] == [(one.is_write, one.is_of_file) for one in found.functions]
    for function in found.functions:
        assert function.is_emulated or function.is_of_file
        assert function.is_emulated == (first_byte(code, function.offset) in PUSHES)
        if not function.is_of_file:
            assert_calls_end_at(code, function)


def test_the_calls_of_the_librarys_own_bio_are_known() -> None:
    """bio_ssl.c does without the public functions: each internal one has a third caller."""
    found = look_into(system_library())

    assert [3, 3] == [len(function.result_offsets) for function in found.functions if not function.is_of_file]


def first_byte(code: bytes, offset: int) -> int:
    return code[offset + 1] if code[offset] in (0x40, 0x41) else code[offset]


def assert_calls_end_at(code: bytes, function: Function) -> None:
    """The five bytes before each are a call of it; a branch target's marker may stand in between."""
    assert len(function.result_offsets) >= 2
    for behind in function.result_offsets:
        assert 0xE8 == code[behind - 5]
        called = behind + struct.unpack("<i", code[behind - 4 : behind])[0]
        assert function.offset - called in (0, 4)


@pytest.mark.parametrize("path", [Path("/bin/true"), Path(sys.executable)])
def test_a_program_without_tls_has_none(path: Path) -> None:
    with pytest.raises(NoTlsError):
        look_into(path)


NUMBERS = (0, 1, 0xFF, 1 << 31, (1 << 63) - 1, (1 << 64) - 1)


def broken(choose: random.Random) -> bytes:
    """A few numbers changed to what breaks things, or the end cut off."""
    number = choose.choice([*NUMBERS, choose.getrandbits(64)])
    some = [
        (choose.randrange(256), choose.getrandbits(16), choose.randrange(4), number)
        for _ in range(choose.randint(1, 4))
    ]
    return changed(some, choose.randrange(len(content())) if choose.random() < 0.1 else None)


def test_a_broken_file_gives_one_clear_finding() -> None:
    """It may be read all the same, hold no TLS, or be called unreadable in one line: never anything else."""
    choose, findings = random.Random(6), set()
    for _ in range(600):
        try:
            findings.add(type(inspect(io.BytesIO(broken(choose)))))
        except NoTlsError:
            findings.add(NoTlsError)
        except UnreadableTlsError as error:
            assert str(error).splitlines() == [str(error)]
            findings.add(UnreadableTlsError)

    assert {TlsLibrary, NoTlsError, UnreadableTlsError} == findings


def test_another_machine_is_named() -> None:
    other = changed([(0, 18, 1, 183)])

    with pytest.raises(UnreadableTlsError, match="EM_AARCH64: x86-64 alone is read"):
        inspect(io.BytesIO(other))
