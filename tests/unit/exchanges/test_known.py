"""What has come more than once is kept, bounded."""

from hypothesis import given
from hypothesis import strategies as st

from otel_ebpf.exchanges.http1 import NotHttpError, parse_request_head, parse_response_head
from otel_ebpf.exchanges.known import Known

PIECES = st.lists(
    st.sampled_from(
        [
            b"GET / HTTP/1.1", b"HTTP/1.1 200 OK", b"\r\n", b"\n", b"\r", b"Content-Length: 5", b"content-length:6",
            b"Transfer-Encoding: chunked", b"Host: a", b" folded", b"x" * 1100, b"hello",
        ]
    ),
    max_size=12,
).map(b"".join)  # fmt: skip


def test_what_comes_once_is_not_kept():
    known: Known[int] = Known(10)

    known.offer(b"once", 1)
    known.offer(b"twice", 2)
    known.offer(b"twice", 2)

    assert None is known.get(b"once")
    assert 2 == known.get(b"twice")


def test_what_is_kept_is_bounded():
    known: Known[int] = Known(10)
    for number in range(200):
        known.offer(b"%d" % number, number)
        known.offer(b"%d" % number, number)
        assert len(known.made) <= 10
        assert len(known._seen_once) <= 40


@given(PIECES)
def test_a_head_that_is_known_is_read_as_for_the_first_time(data: bytes):
    """Wherever its end is, and whatever follows; `is_cut` reads anew and takes what is whole as it is."""
    for parse in (parse_request_head, parse_response_head):
        found = []
        for behind in (b"", b"", b"", b"\r\n\r\nGET / HTTP/1.1\r\n\r\n"):
            try:
                found.append(parse(data + behind))
            except NotHttpError:
                found.append("not HTTP")
        first, second, third, _ = found
        assert first == second == third
        if first is not None and first != "not HTTP":
            assert found == [first] * 4
            assert first == parse(data, is_cut=True)
            assert first == parse(b"xy" + data, 2)
