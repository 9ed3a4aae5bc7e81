"""Packets of the probe: refused, or a frame that encode_frame can have written."""

from otel_ebpf.records.decode import DecodeError
from otel_ebpf.records.frames import MAX_FRAME_BYTES, decode_frame, encode_frame


def fuzz(data: bytes) -> None:
    try:
        frame = decode_frame(data)
    except DecodeError:
        return
    packet = encode_frame(frame)
    assert len(packet) <= MAX_FRAME_BYTES
    assert frame == decode_frame(packet)
