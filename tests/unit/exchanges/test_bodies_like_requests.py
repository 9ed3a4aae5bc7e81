"""Whatever a request's body holds, and however the calls cut it: none of it becomes a request."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_ebpf.exchanges.exchange import Exchange, Unknown
from otel_ebpf.records.kinds import EndReason
from tests.unit.exchanges.kernel_model import Connection
from tests.unit.exchanges.test_masking import Redacted

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
EARLY = b"HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked"
INVENTED = b"GET /invented HTTP/1.1\r\nHost: nobody\r\n\r\n"
TRAP = b"0\r\n\r\n" + INVENTED  # to who looks for the end of chunks in their bytes
GET = b"GET /next HTTP/1.1\r\nHost: shop\r\n\r\n"


def head(target: bytes, framing: bytes) -> bytes:
    return b"PUT %b HTTP/1.1\r\n%b\r\n\r\n" % (target, framing)


def coded(*chunks: bytes, trailer: bytes = b"", extension: bytes = b"") -> bytes:
    sizes = (b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks if chunk)
    return b"".join(sizes) + b"0\r\n" + trailer + b"\r\n"


def targets(connection: Connection) -> list[bytes]:
    return [found.target for found in connection.exchanges]


def ended(connection: Connection) -> list[Exchange]:
    connection.wait(1).end(EndReason.CLOSED)
    assert connection.assembler.open_count == 0
    return connection.exchanges


UP = head(b"/up", CHUNKED)
BODY = coded(b"u" * 9000 + b"\r\n" + TRAP)
CALLS = [
    pytest.param([UP, BODY], id="the body in one call"),
    pytest.param([UP, BODY[:9000], BODY[9000:]], id="and the trap in another"),
    pytest.param([UP, BODY[: -len(INVENTED) - 7], INVENTED, b"\r\n0\r\n\r\n"], id="and in a call of its own"),
    pytest.param([UP + BODY[:9000], BODY[9000:]], id="the head with the body"),
    pytest.param([UP, b"u" * 9000 + b"\r\n" + TRAP + b"\r\n0\r\n\r\n"], id="what reads like no chunks"),
    pytest.param([UP, b"1;" + b"e" * 9000, b"\r\nu\r\n" + coded(b"\n" + TRAP)], id="an extension"),
]


@pytest.mark.parametrize("calls", CALLS)
def test_a_chunk_that_holds_a_last_chunk_and_a_request_invents_none(calls: list[bytes]):
    connection = Connection()
    for call in calls:
        connection.request(call)
    connection.response(OK)
    ended(connection)

    assert [b"/up"] == targets(connection)


@pytest.mark.parametrize("calls", CALLS)
def test_nor_does_it_when_the_answer_comes_before_the_body(calls: list[bytes]):
    connection = Connection().request(calls[0]).response(EARLY)
    for call in calls[1:]:
        connection.request(call)
    connection.response(b"large")
    ended(connection)

    assert [b"/up"] == targets(connection)


@pytest.mark.parametrize("calls", CALLS)
def test_a_redacted_recording_shows_nothing_of_it_and_gives_the_same(calls: list[bytes]):
    redacted = Redacted()
    plain, hidden = Connection(), Connection(assembler=redacted)
    for connection in (plain, hidden):
        for call in calls:
            connection.request(call)
        connection.response(OK).request(GET).response(OK)

    assert (plain.exchanges, plain.assembler.losses) == (hidden.exchanges, redacted.losses)
    assert b"invented" not in redacted.seen


def test_nor_one_call_of_such_a_body_after_the_other():
    """Each begins like a request, and each is behind bytes of an answer that came early."""
    connection = Connection().request(UP).response(EARLY).request(b"1000\r\n")
    for letter in b"large":
        connection.request(INVENTED).response(bytes([letter]))
    ended(connection)

    assert [b"/up"] == targets(connection)
    assert 5 == connection.assembler.losses["behind a body without a known end"]


def test_the_rest_of_a_body_of_known_length_is_no_request_however_often_it_looks_like_one():
    body = INVENTED * 5
    connection = Connection().request(head(b"/up", b"Content-Length: %d" % len(body))).response(EARLY)
    for letter in b"large":
        connection.request(INVENTED).response(bytes([letter]))
    connection.request(GET).response(OK)
    ended(connection)

    assert [b"/up", b"/next"] == targets(connection)
    assert 5 == connection.assembler.losses["not a request but the rest of a body"]


def test_behind_a_body_that_was_followed_to_its_end_the_next_request_is_one():
    connection = Connection().request(UP).response(EARLY).request(BODY).response(b"large").request(GET).response(OK)

    assert [b"/up", b"/next"] == targets(connection)


def test_behind_one_that_was_not_followed_nothing_is_believed_and_all_is_counted():
    """The upload was answered; whether its body had ended by then, nobody knows."""
    connection = Connection().request(UP).request(b"5\r\nhel", uncopied=9).response(OK).request(GET).response(OK)
    connection.request(GET).response(OK)
    ended(connection)

    assert [b"/up"] == targets(connection)
    assert {"behind a body without a known end": 2} == connection.assembler.losses


def test_a_client_that_was_refused_its_body_goes_on_with_a_request():
    """RFC 9110 10.1.1. No chunk begins like one."""
    upload = b"PUT /up HTTP/1.1\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"
    connection = Connection().request(upload).response(EARLY).response(b"large").request(GET).response(OK)

    assert [b"/up", b"/next"] == targets(connection)


@pytest.mark.parametrize("framing", [b"Content-Length: %d" % (2 * len(INVENTED)), CHUNKED])
def test_an_answer_that_is_none_does_not_end_the_body_before_it(framing: bytes):
    """Nor does what comes behind such an answer."""
    connection = Connection().request(head(b"/up", framing)).request(INVENTED[:30])
    connection.response(EARLY).response(b"large" + b"not HTTP").request(INVENTED).response(OK)
    ended(connection)

    assert b"/invented" not in targets(connection)


FILLS = [
    b"a",
    b"12\n",
    b"\r\n\r\n",
    b"5\r\nhello\r\n",
    b"0\r\n\r\n",
    TRAP,
    INVENTED,
    head(b"/invented", CHUNKED),
    b"DEAD\r\n",
]
BODIES = st.lists(st.lists(st.sampled_from([*FILLS, b"x" * 9000]), min_size=1, max_size=3).map(b"".join), max_size=3)


@st.composite
def requests(draw: st.DrawFn) -> tuple[bytes, bytes, int]:
    """Method and head, body as it is sent, its size."""
    chunks = draw(BODIES)
    size = sum(map(len, chunks))
    if draw(st.booleans()):
        return b"Content-Length: %d" % size, b"".join(chunks), size
    trailer = draw(st.sampled_from([b"", b"GET /invented HTTP/1.1\r\n"]))
    extension = draw(st.sampled_from([b"", b";a=b", b' ;a="0"']))
    return CHUNKED, coded(*chunks, trailer=trailer, extension=extension), size


@given(st.lists(requests(), min_size=1, max_size=4), st.booleans(), st.data())
def test_no_body_invents_a_request_or_a_size(
    sent: list[tuple[bytes, bytes, int]], is_patient: bool, data: st.DataObject
):
    """Pipelined or not; answered as early as it may be, or when all has come."""
    whole, sizes, heads_at, ends_at = b"", {}, [], []
    for number, (framing, body, size) in enumerate(sent):
        target = b"/%d" % number
        whole += head(target, framing)
        heads_at.append(len(whole))
        whole += body
        ends_at.append(len(whole))
        sizes[target] = size
    cuts = data.draw(
        st.sets(st.integers(1, len(whole) - 1) | st.sampled_from([*heads_at, *ends_at[:-1], 1]), max_size=12)
    )
    connection, answered = Connection(), 0
    for start, end in pairwise([0, *sorted(cuts - {len(whole)}), len(whole)]):
        connection.request(whole[start:end])
        answerable = sum(at <= end for at in (ends_at if is_patient else heads_at))
        while answered < answerable and data.draw(st.booleans()):
            answered += 1
            connection.response(OK)
            if data.draw(st.booleans()):
                connection.wait(1)
    for _ in sent[answered:]:
        connection.response(OK)
    connection.wait(1).end(EndReason.CLOSED)

    whole_heads = [found for found in connection.exchanges if not found.unknown & Unknown.REQUEST_HEAD_CUT]
    cut_heads = [found for found in connection.exchanges if found.unknown & Unknown.REQUEST_HEAD_CUT]
    assert set() == {found.target for found in whole_heads} - set(sizes)
    assert [] == [found.target for found in cut_heads if not any(sent.startswith(found.target) for sent in sizes)]
    assert {} == {
        found.target: (found.request_body_bytes, sizes[found.target])
        for found in whole_heads
        if found.request_body_bytes not in (None, sizes[found.target])
    }
