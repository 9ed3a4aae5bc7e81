import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_ebpf.probe.btf import Btf, BtfError
from tests.unit.probe.btf_blob import BtfBlob, small_kernel

STRUCTS = ("sock", "sock_common", "files_struct", "packed_struct", "absent")
CONSTANTS = ("TCP_LISTEN", "NEGATIVE", "WIDE", "WIDE_NEGATIVE", "ABSENT")


def read_everything(blob: bytes) -> int:
    """Everything that can be asked of a blob; the number of answers."""
    btf = Btf(blob, STRUCTS)
    answers = len(btf.enum_constants(CONSTANTS))
    for type_id in btf.structs.values():
        for member in btf.named_members(type_id):
            answers += 1
            resolved = btf.resolve(member.type_id)
            if resolved:
                btf.type(resolved)
                btf.is_signed(resolved)
                btf.array(resolved)
    return answers


def test_members_of_anonymous_structs_belong_to_the_struct_around_them():
    """C11 6.7.2.1, paragraph 13."""
    btf = Btf(small_kernel().build(), STRUCTS)

    offsets = {member.name: member.bit_offset // 8 for member in btf.named_members(btf.structs["sock_common"])}

    assert {"skc_addrpair": 0, "skc_portpair": 8, "skc_dport": 8, "skc_num": 10, "skc_family": 12} == offsets


def test_a_bitfield_has_its_place_and_width_in_bits():
    btf = Btf(small_kernel().build(), STRUCTS)

    places = {
        member.name: (member.bit_offset, member.bitfield_bits) for member in btf.named_members(btf.structs["sock"])
    }

    assert (130, 3) == places["sk_kern_sock"]
    assert (160, 0) == places["sk_err"]


def test_only_structs_that_exist_are_found():
    assert {"sock", "sock_common", "files_struct", "packed_struct"} == set(Btf(small_kernel().build(), STRUCTS).structs)


def test_how_many_parameters_a_function_takes_is_told_of_those_that_are_there():
    blob = BtfBlob()
    number = blob.integer("int", 4)
    blob.function("other", {"a": number})
    blob.function("tcp_recvmsg", {"sk": number, "msg": number, "len": number})
    btf = Btf(blob.build(), (), ("tcp_recvmsg", "no_such_function"))

    assert 3 == btf.parameter_count("tcp_recvmsg")
    assert btf.parameter_count("no_such_function") is None
    assert btf.parameter_count("other") is None, "nobody has asked for it"


def test_enum_constants_are_found_by_name_whatever_their_width_and_sign():
    """Documentation/bpf/btf.rst 2.2.6 and 2.2.19: enum has 32 bits a value, enum64 two times 32."""
    btf = Btf(small_kernel().build(), ())

    assert {"TCP_LISTEN": 10, "NEGATIVE": -2, "WIDE": 1 << 40, "WIDE_NEGATIVE": -1} == btf.enum_constants(CONSTANTS)


def test_a_typedef_is_resolved_to_what_it_names():
    blob = BtfBlob()
    number = blob.integer("int", 4)
    name = blob.typedef("b", blob.typedef("a", number))

    assert number == Btf(blob.build()).resolve(name)


def test_a_typedef_of_itself_is_refused():
    blob = BtfBlob()
    blob.typedef("loop", 1)

    with pytest.raises(BtfError, match="typedef of itself"):
        Btf(blob.build()).resolve(1)


def test_a_struct_that_holds_itself_is_refused_in_bounded_time():
    """Two members of its own type each: a reader without a bound would need 2 to the depth."""
    blob = BtfBlob()
    blob.struct("sock", 8, [("", 1, 0), ("", 1, 0)])
    btf = Btf(blob.build(), STRUCTS)

    with pytest.raises(BtfError, match="holds itself"):
        list(btf.named_members(btf.structs["sock"]))


def test_a_kind_that_a_later_kernel_may_add_is_named():
    blob = BtfBlob()
    blob.other(29)

    with pytest.raises(BtfError, match="kind 29"):
        Btf(blob.build())


@pytest.mark.parametrize(
    ("offset", "value"), [(0, 0), (4, 4000), (8, 1 << 31), (12, 1 << 31), (16, 1 << 31), (20, 1 << 31), (20, 0)]
)
def test_a_header_that_points_elsewhere_is_refused(offset: int, value: int):
    blob = bytearray(small_kernel().build())
    struct.pack_into("=H" if offset == 0 else "=I", blob, offset, value)

    with pytest.raises(BtfError):
        Btf(bytes(blob))


def test_every_truncation_is_refused():
    blob = small_kernel().build()

    for length in range(len(blob)):
        with pytest.raises(BtfError):
            Btf(blob[:length])


def test_the_error_is_one_that_the_command_line_shows_with_a_remedy():
    with pytest.raises(BtfError) as raised:
        Btf(b"")

    assert raised.value.what
    assert raised.value.remedy
    assert 3 == raised.value.exit_code


@settings(max_examples=400)
@given(st.integers(0, 2**32), st.integers(1, 12))
def test_a_damaged_blob_is_read_or_refused_but_never_hangs_or_crashes(seed: int, count: int):
    """Any byte may be anything: the answer is data or BtfError."""
    chance = random.Random(seed)
    blob = bytearray(small_kernel().build())
    for _ in range(count):
        blob[chance.randrange(len(blob))] = chance.choice((0, 1, 2, 4, 0x7F, 0x80, 0xFF, chance.randrange(256)))

    try:
        answers = read_everything(bytes(blob))
    except BtfError as error:
        assert error.what
    else:
        assert answers >= 0


@settings(max_examples=200)
@given(st.binary(max_size=400))
def test_arbitrary_types_are_read_or_refused(types: bytes):
    strings = b"\0sock\0TCP_LISTEN\0"
    header = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))

    try:
        assert read_everything(header + types + strings) >= 0
    except BtfError as error:
        assert error.what
