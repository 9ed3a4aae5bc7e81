"""Both ends of every captured connection were watched: each exchange of the server is the child of the client's."""

from pathlib import Path

import pytest

from otel_ebpf.exchanges.exchange import Exchange, Role
from tests.captures.replaying import CAPTURES, replay

RECORDINGS = sorted(CAPTURES.glob("*.recording"))
# Requests that were sent before the answer to the one before: of these the first may be linked, the others are not.
NOT_WAITING = (
    "answers_outstanding",
    "early_answer_then_more",
    "in_flight_in_chunks",
    "in_flight_in_chunks_with_extensions",
    "in_flight_joined",
    "in_flight_of_known_length",
    "pipelined",
    "pipelined_across_calls",
    "pipelined_in_one_answer",
    "pipelined_in_pieces",
    "twenty_pipelined",
)


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_no_link_is_wrong_and_none_is_missing_where_clients_wait(path: Path):
    exchanges = replay(path.read_bytes())[1]

    clients = {(found.connection, found.position): found for found in exchanges if found.role is Role.CLIENT}
    servers = [found for found in exchanges if found.role is Role.SERVER]
    unlinked = [server for server in servers if not is_linked(server, clients)]
    assert path.stem in NOT_WAITING or [] == unlinked
    assert [] == [found for found in clients.values() if found.link is not None]


def is_linked(server: Exchange, clients: dict[tuple[int, int], Exchange]) -> bool:
    """To one that has sent the same; a client may give no exchange of its own where the agent ended before."""
    if server.link is None:
        return False
    parent = clients[server.link.parent.connection, server.link.parent.number]
    asked = (parent.method, parent.target, parent.local_port, parent.remote_port)
    assert (server.method, server.target, server.remote_port, server.local_port) == asked
    return True
