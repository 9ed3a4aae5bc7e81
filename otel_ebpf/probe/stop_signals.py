"""SIGTERM and SIGINT as something to poll for.

In:   signals, from the moment that one of these is made
Out:  a descriptor that becomes readable, and which signals came
"""

import signal
import socket


class StopSignals:
    def __init__(self) -> None:
        self.received: list[int] = []
        self._reader, self._writer = socket.socketpair()
        for end in (self._reader, self._writer):
            end.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda received, _: self.received.append(received))

    def fileno(self) -> int:
        return self._reader.fileno()
