import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_ebpf.probe.artifact import ArtifactError, decode, encode
from tests.unit.probe.artifacts import small_artifact

Document = dict[str, list]  # type: ignore[type-arg]


def document() -> Document:
    return json.loads(encode(small_artifact()))  # type: ignore[no-any-return]


def test_what_was_encoded_is_decoded_the_same():
    assert small_artifact() == decode(encode(small_artifact()))


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        (("maps", 0, 1), -1, "no number from 0"),
        (("maps", 0, 1), True, "no number from 0"),
        (("maps", 0, 4), 1 << 32, "no number from 0"),
        (("maps", 0, 0), "a b", "no C name"),
        (("maps", 0), ["short"], "does not have 6 parts"),
        (("maps",), "text", "no list"),
        (("programs", 0, 1), "%%", "not base64"),
        (("programs", 0, 1), "AAAA", "3 bytes of instructions"),
        (("programs", 0, 1), "", "0 bytes of instructions"),
        (("programs", 0, 2), [[1, "targets"]], "does not load a map"),
        (("programs", 0, 2), [[99, "targets"]], "no number from 0"),
        (("programs", 0, 2), [[0, "other"]], "does not exist"),
        (("compiler", 0), 5, "is no text"),
        (("compiler", 2), [["path", 1]], "does not have 4 parts"),
    ],
)
def test_a_field_out_of_bounds_is_named(path: tuple[str | int, ...], value: object, complaint: str):
    changed: object = document()
    holder = changed
    for step in path[:-1]:
        holder = holder[step]  # type: ignore[index]
    holder[path[-1]] = value  # type: ignore[index]

    with pytest.raises(ArtifactError, match=complaint):
        decode(json.dumps(changed).encode())


def test_two_maps_of_one_name_are_refused():
    changed = document()
    changed["maps"] *= 2

    with pytest.raises(ArtifactError, match="same name"):
        decode(json.dumps(changed).encode())


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_with_artifact_error(blob: bytes):
    with pytest.raises(ArtifactError):
        decode(blob)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=20,
)


@given(st.sampled_from(["maps", "programs", "compiler"]), JSON_VALUES)
def test_any_json_in_a_place_is_read_or_refused_with_artifact_error(place: str, value: object):
    changed = document() | {place: value}

    try:
        decoded = decode(json.dumps(changed).encode())
    except ArtifactError as error:
        assert str(error)
    else:
        assert small_artifact().compiler == decoded.compiler or place == "compiler"
