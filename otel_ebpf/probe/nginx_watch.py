"""Keeps the probes on ngx_event_connect_peer in the executables of nginx that targets run: which upstream request belongs to
which incoming one.

In:   as function_watch.py; how often the kernel side has found a request
Out:  attachments
Owns: nothing beside them
"""

import re
import struct
from collections.abc import Iterable

from otel_ebpf.probe.function_places import FunctionPlaces
from otel_ebpf.probe.function_watch import FunctionWatch, WatchedFile, WatchedFunction
from otel_ebpf.probe.maps import PID, Map
from otel_ebpf.probe.procfs import MappedFile
from otel_ebpf.probe.uprobes import Place, Probe

_NAME = re.compile(rb"/(nginx|openresty|angie|freenginx|tengine)(-debug)?\Z")
_TALLY = struct.Struct("<QQ")  # struct upstream_tally
_IN_REGISTER = 0x100  # in a cookie: what it was asked for is in a register where it ends, and no probe where it begins
_ENOUGH_LOST = 8  # and none found: that is not so, or this build keeps its requests elsewhere
_ELSEWHERE = "its requests are not where nginx has them"


def is_nginx(mapped: MappedFile) -> bool:
    return _NAME.search(mapped.path) is not None


_CONNECT_PEER = WatchedFunction(
    name="ngx_event_connect_peer",  # exported for modules, so stripping leaves its name
    at_begin="on_upstream_entry",
    at_end="on_upstream_end",
    is_in=is_nginx,
    trouble="calls of {path} have no parent: {why}",
    too_many="calls of some nginx have no parent: more than {most} of its executables are in use",
    with_argument=True,
)


class NginxWatch(FunctionWatch):
    function, needs = _CONNECT_PEER, _CONNECT_PEER.at_end

    def probes(self, file: WatchedFile, places: FunctionPlaces) -> list[Probe]:
        """One probe costs half of two."""
        ends = [Place(end.offset, end.argument | _IN_REGISTER) for end in places.ends if end.argument is not None]
        if not file.has_rare_probes and len(ends) == len(places.ends):
            return [Probe(_CONNECT_PEER.at_end, ends)]
        file.has_rare_probes = True
        return super().probes(file, places)

    def tick(self) -> None:
        """Once a second."""
        super().tick()
        tallies = self.loaded.maps.get("upstream_tallies")
        if tallies is None:
            return  # no nginx so far
        blind = [
            file
            for file in self.files.known.values()
            if file.links and not file.trouble and _find_nothing(tallies, file.users)
        ]
        for file in blind:
            if file.has_rare_probes:
                file.trouble = _ELSEWHERE
            else:
                file.has_rare_probes = True
                self.files.inspect_anew(file)
                for pid in file.users:
                    tallies.delete(PID.pack(pid))


def _find_nothing(tallies: Map, pids: Iterable[int]) -> bool:
    found_by = [_TALLY.unpack(tally) for pid in pids if (tally := tallies.lookup(PID.pack(pid)))]
    found, lost = (sum(counts) for counts in zip((0, 0), *found_by, strict=True))
    return lost >= _ENOUGH_LOST and not found
