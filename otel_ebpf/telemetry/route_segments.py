"""Which segments of a path are data, by their looks.

In:   one segment of a path, as it stood on the wire
Out:  the segment itself, or what stands for it in a route
Owns: a bounded cache

A heuristic, and stated as such: `/orders/17` says nothing of what its service calls 17. What looks like an id, a number, a
UUID, a hash or a token becomes `{id}`; dates `{date}`; e-mail addresses `{email}`. Parts of a segment are replaced alone
where the rest is a word: `invoice-17.pdf` is `invoice-{id}.pdf`. Versions (`v2`) and short names with digits (`oauth2`) stay.
"""

import re
from functools import lru_cache

ID, DATE, EMAIL = b"{id}", b"{date}", b"{email}"
ANY = b"*"  # one segment that was one too many, see routes.py
REST = b"**"
PLACEHOLDERS = frozenset((ID, DATE, EMAIL, ANY, REST))

LONGEST_NAME_BYTES = 40  # no part of an API has a longer name

_WORD = re.compile(rb"[a-z]+(?:[_-][a-z]+){0,3}\Z")
_NUMBER = re.compile(rb"[+-]?[0-9]+(?:[.,][0-9]+)*\Z")
_DATE = re.compile(
    rb"(?:19|20)[0-9]{2}-(?:0[1-9]|1[0-2])(?:-(?:0[1-9]|[12][0-9]|3[01])(?:[Tt _](?:[0-9:.Zz+-]|%3[Aa]|%2[Bb])*)?)?\Z"
)
_EMAIL = re.compile(rb"[A-Za-z0-9._%+-]+(?:@|%40)[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}\Z")
_UUID = re.compile(rb"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\Z")
_CODE = re.compile(rb"[A-Z]{1,10}[-_]?[0-9]{1,12}\Z")  # PROJ-123, A1
_VERSION = re.compile(rb"[vV][0-9]{1,4}(?:[._][0-9]{1,4}){0,3}(?:(?:alpha|beta|rc|p)[0-9]{0,3})*\Z")
_NAME = re.compile(rb"[A-Za-z0-9._~!$&'()*+,=:@{}-]+\Z")  # the characters of RFC 3986 that need no escape
_DELIMITERS = re.compile(rb"([-_.:,~=+@!$&'()*])")
_HEX = re.compile(rb"(?:0[xX])?[0-9A-Fa-f]{7,}\Z")
_DIGIT = re.compile(rb"[0-9]")
_DIGITS_BEGIN_OR_END = re.compile(rb"(?<=[0-9])(?=[A-Za-z])|(?<=[A-Za-z])(?=[0-9])")
_CAPITAL = re.compile(rb"[A-Z]")
_NOT_ALPHANUMERIC = re.compile(rb"[^A-Za-z0-9]+")


@lru_cache(maxsize=4096)
def generic(segment: bytes) -> bytes:
    """What a route says in the place of this segment; of its own answers it gives each back."""
    if _WORD.match(segment):
        return segment if len(segment) <= LONGEST_NAME_BYTES else ID
    if segment in PLACEHOLDERS or not segment or _VERSION.match(segment):
        return segment
    if _NUMBER.match(segment) or _UUID.match(segment) or _CODE.match(segment):
        return ID
    if _DATE.match(segment):
        return DATE
    if _EMAIL.match(segment):
        return EMAIL
    before, parameters, _ = segment.partition(b";")  # RFC 3986 section 3.3: `cart;jsessionid=...`
    if parameters:
        return generic(before)
    if len(segment) > LONGEST_NAME_BYTES or not _NAME.match(segment) or _is_long_token(segment):
        return ID
    found = _generic_parts(segment)
    return found if found == segment else generic(found)  # with fewer words in it the rest may look otherwise


def is_version_number(segment: bytes) -> bool:
    """`/2/users`, `/api/3/issue`, `/1.1/statuses`: where a version may stand, a short number is one."""
    return len(segment) <= 4 and segment[:1].isdigit() and _NUMBER.match(segment) is not None


def _generic_parts(segment: bytes) -> bytes:
    parts = _DELIMITERS.split(segment)
    for index in range(0, len(parts), 2):
        if _is_id(parts[index]):
            parts[index] = ID
    names = parts[::2]
    if ID not in names:
        return segment
    if all(name == ID or not name for name in names):
        return ID  # 10.0.0.1, 2024_11_21
    found = b"".join(parts)
    return found if len(found) <= LONGEST_NAME_BYTES else ID


def _is_id(part: bytes) -> bool:
    """Of a part without delimiters."""
    digits = len(_DIGIT.findall(part))
    if not digits:
        return len(part) >= 16 and (_HEX.match(part) is not None or _is_scrambled(part))
    if digits == len(part) or _VERSION.match(part):
        return digits == len(part)
    if digits >= 4 or _HEX.match(part) or (len(part) >= 10 and _is_scrambled(part)):
        return True
    return len(part) >= 8 and len(_DIGITS_BEGIN_OR_END.findall(part)) >= 3


def _is_scrambled(part: bytes) -> bool:
    """More capitals than the words of a name would begin with."""
    return 3 * len(_CAPITAL.findall(part)) > len(part) and not part.isupper()


def _is_long_token(segment: bytes) -> bool:
    """Base64 and its like: long, of all kinds of characters, whatever stands between them."""
    token = _NOT_ALPHANUMERIC.sub(b"", segment)
    if len(token) < 20 or token.islower() or token.isupper():
        return False
    return len(_DIGIT.findall(token)) >= 2 and 4 * len(_CAPITAL.findall(token)) > len(token)
