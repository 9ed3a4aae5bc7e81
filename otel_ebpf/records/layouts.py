"""The structs of bpf/records.h as Python reads them; tests/contract compares the two field by field."""

import struct

# kind lost role family reason flags captured | pid tid service_pid position | connection at request_bytes
# response_bytes request_last response_last | total local_port remote_port | addresses tail chunk_payload |
# parent_connection parent_position parent_evidence network_namespace sequence
RECORD = struct.Struct("<6BH4I6QI2H16s16s8sQQ4I")

# connection | position ended lost lost_count flags | response_bytes response_last request_bytes request_last | tail chunk_payload
PROGRESS = struct.Struct("<QIBBBBQQQQ8sQ")

# kind is_same_thread is_only_name answer_count | pid tid unused | connection former_connection start end |
# families addresses name
LOOKUP = struct.Struct("<4B3I4Q8s128s256s")

# kind pid parent_pid port is_target command executable_inode executable_device unused
PROCESS_EVENT = struct.Struct("<IIIHH16sQII")

PROGRESS_SLOTS = 16384
PROGRESS_UNSENT = 1 << 63  # in response_last
REQUEST_CAPTURE_BYTES = 8192
RESPONSE_CAPTURE_BYTES = 2048
LATE_CAPTURE_BYTES = 2048
MAX_HEAD_BYTES = 65536
