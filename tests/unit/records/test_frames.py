"""Frames from probe to exporter: what goes in comes out, and nothing else is taken."""

import json
import socket
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_ebpf.records.decode import DecodeError
from otel_ebpf.records.frames import (
    MAX_FRAME_BYTES,
    Frame,
    Hooks,
    LedgerClosed,
    ServiceGone,
    Shutdown,
    cut_arguments,
    cut_environ,
    decode_frame,
    encode_frame,
)
from otel_ebpf.records.kinds import CounterReading, LedgerReading, ServiceIdentity

numbers = st.integers(0, 2**64 - 1)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)
identities = st.builds(
    ServiceIdentity,
    pid=numbers,
    start_ticks=numbers,
    command=st.binary(max_size=16),
    executable=st.binary(max_size=500),
    argv=st.lists(st.binary(max_size=300), max_size=20).map(tuple),
    environ=st.dictionaries(
        st.sampled_from(["OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"]), st.binary(max_size=500)
    ),
    working_directory=st.binary(max_size=500),
    container_id=text,
    listening_ports=st.lists(st.integers(1, 65535), max_size=20).map(tuple),
    owner=text,
)
frames = st.one_of(
    identities,
    st.builds(CounterReading, st.lists(numbers, max_size=30).map(tuple)),
    st.builds(LedgerReading, st.lists(st.lists(numbers, min_size=2, max_size=12).map(tuple), max_size=20).map(tuple)),
    st.builds(LedgerClosed, numbers),
    st.builds(Hooks, text),
    st.builds(ServiceGone, numbers),
    st.builds(Shutdown, text, numbers),
)

IDENTITY = ServiceIdentity(7, 8, b"x", b"/x", (b"x",), {"OTEL_SERVICE_NAME": b"x"}, b"/", "", (80,), "root")


@given(frames)
def test_every_frame_comes_back_as_it_was(frame: Frame) -> None:
    assert frame == decode_frame(encode_frame(frame))


@given(
    st.lists(st.binary(min_size=1, max_size=200).map(lambda piece: piece * 200), max_size=40).map(tuple),
    st.binary(min_size=1, max_size=50).map(lambda piece: piece * 400),
)
def test_an_identity_of_any_size_fits_into_one_frame(argv: tuple[bytes, ...], long: bytes) -> None:
    """JSON makes six bytes of one control character, so the bound is on what leaves, not on what came."""
    environ = {"OTEL_SERVICE_NAME": long, "OTEL_RESOURCE_ATTRIBUTES": long}
    identity = replace(IDENTITY, argv=argv, executable=long, working_directory=long, environ=environ, owner="\0" * 9999)
    packet = encode_frame(identity)
    found = decode_frame(packet)

    assert len(packet) <= MAX_FRAME_BYTES
    assert isinstance(found, ServiceIdentity)
    assert identity.argv[: len(found.argv) - 1] == found.argv[:-1]
    assert long.startswith(found.executable)


def test_a_frame_with_nothing_to_cut_is_refused_before_it_is_sent() -> None:
    with pytest.raises(ValueError, match="CounterReading"):
        encode_frame(CounterReading((2**63,) * 10_000))


def test_frames_stay_apart_on_their_channel() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        for frame in (ServiceGone(1), IDENTITY, Shutdown("asked to stop", 5)):
            ours.send(encode_frame(frame))

        assert ServiceGone(1) == decode_frame(theirs.recv(MAX_FRAME_BYTES))
        assert decode_frame(theirs.recv(MAX_FRAME_BYTES)) == IDENTITY
        assert Shutdown("asked to stop", 5) == decode_frame(theirs.recv(MAX_FRAME_BYTES))


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"\xff",
        b"null",
        b"[]",
        b"{}",
        b'{"kind":"ServiceGone"}',
        b'{"kind":"ServiceGone","service_pid":1,"more":2}',
        b'{"kind":"ServiceGone","service_pid":1,"service_pid":2}',
        b'{"kind":"ServiceGone","service_pid":-1}',
        b'{"kind":"ServiceGone","service_pid":1.0}',
        b'{"kind":"ServiceGone","service_pid":1e400}',
        b'{"kind":"ServiceGone","service_pid":NaN}',
        b'{"kind":"ServiceGone","service_pid":true}',
        b'{"kind":"ServiceGone","service_pid":"1"}',
        b'{"kind":"ServiceGone","service_pid":18446744073709551616}',
        b'{"kind":["ServiceGone"],"service_pid":1}',
        b'{"kind":"CounterReading","values":{"0":1}}',
        b'{"kind":"LedgerReading","rows":[[1]]}',
        b'{"kind":"LedgerReading","rows":[7]}',
        b'{"kind":"CounterReading","values":[' + b",".join([b"0"] * 5000) + b"]}",
        b"[" * 60_000,
        b" " * (MAX_FRAME_BYTES + 1),
    ],
)
def test_anything_else_is_a_decode_error(packet: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_frame(packet)


def test_a_character_that_is_no_byte_is_a_decode_error() -> None:
    message = json.loads(encode_frame(IDENTITY)) | {"command": "€"}
    with pytest.raises(DecodeError, match="command"):
        decode_frame(json.dumps(message).encode())


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_decode_error(packet: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_frame(packet)


def test_resource_attributes_are_cut_between_two_pairs() -> None:
    """Half a value would be a wrong one; a pair too long for the bound leaves nothing."""
    cut = cut_environ({"OTEL_RESOURCE_ATTRIBUTES": b"a=1,b=2,c=3"}, 9)

    assert {"OTEL_RESOURCE_ATTRIBUTES": b"a=1,b=2"} == cut
    assert {"OTEL_RESOURCE_ATTRIBUTES": b"a=1,b=2"} == cut_environ({"OTEL_RESOURCE_ATTRIBUTES": b"a=1,b=2,c=3"}, 7)
    assert {} == cut_environ({"OTEL_RESOURCE_ATTRIBUTES": b"a=12345678"}, 5)


def test_arguments_are_cut_in_the_last_one() -> None:
    assert (b"ab", b"cd") == cut_arguments((b"ab", b"cdef", b"g"), 5)
    assert (b"ab", b"") == cut_arguments((b"ab", b""), 100)
