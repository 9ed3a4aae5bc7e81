"""Keeps the probes on ngx_event_connect_peer in the executables of nginx that targets run: which upstream request belongs to
which incoming one.

In:   as function_watch.py; how often the kernel side has found a request
Out:  attachments
Owns: nothing beside them
"""

import re
import struct

from otel_ebpf.probe.function_places import FunctionPlaces
from otel_ebpf.probe.function_watch import FunctionWatch, WatchedFunction
from otel_ebpf.probe.loader import Loaded
from otel_ebpf.probe.procfs import MappedFile, Procfs
from otel_ebpf.probe.tls_watch import Patiently
from otel_ebpf.probe.uprobes import Place, UprobeForm

_NAME = re.compile(rb"/(nginx|openresty|angie|freenginx|tengine)(-debug)?\Z")
_PID = struct.Struct("<I")
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
    def __init__(
        self,
        loaded: Loaded,
        form: UprobeForm | None,
        procfs: Procfs,
        patiently: Patiently = lambda attaching: attaching(),
    ) -> None:
        super().__init__(_CONNECT_PEER, loaded, form, procfs, patiently)
        self._tallies = loaded.maps["upstream_tallies"]
        self._by_both: set[MappedFile] = set()  # probed where it begins as well

    def probes(self, mapped: MappedFile, places: FunctionPlaces) -> dict[str, list[Place]]:
        """One probe costs half of two."""
        ends = [Place(end.offset, end.argument | _IN_REGISTER) for end in places.ends if end.argument is not None]
        if mapped not in self._by_both and len(ends) == len(places.ends):
            return {_CONNECT_PEER.at_end: ends}
        self._by_both.add(mapped)
        return super().probes(mapped, places)

    def tick(self) -> None:
        """Once a second."""
        super().tick()
        self._by_both &= self.files.keys()
        blind = [
            (mapped, file)
            for mapped, file in self.files.items()
            if file.links and not file.trouble and self._finds_nothing(file.users)
        ]
        for mapped, file in blind:
            if mapped in self._by_both:
                file.trouble = _ELSEWHERE
            else:
                self._by_both.add(mapped)
                self.attach_anew(mapped)
                for pid in file.users:
                    self._tallies.delete(_PID.pack(pid))

    def _finds_nothing(self, pids: set[int]) -> bool:
        tallies = [_TALLY.unpack(tally) for pid in pids if (tally := self._tallies.lookup(_PID.pack(pid)))]
        found, lost = (sum(counts) for counts in zip((0, 0), *tallies, strict=True))
        return lost >= _ENOUGH_LOST and not found
