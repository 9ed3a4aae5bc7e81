// The structs that cross from the kernel to user space, one for one with otel_ebpf/records/layouts.py.
// Rules: kind first, no implicit padding (built with -Wpadded -Werror in tests/contract), units in names,
// every byte assigned before it leaves the kernel.
#pragma once

// One layout for all that the kernel says of an exchange. `captured` bytes follow the struct.
//
//   REQUEST       the first bytes of a request: an exchange begins
//   REQUEST_MORE  later bytes of the request that are worth reading: the rest of a head, a further request
//   RESPONSE      bytes of the response that are worth reading: its head
//   END           the kernel saw the exchange, or a response in it, end: see `reason`
enum record_kind { RECORD_REQUEST = 1, RECORD_REQUEST_MORE = 2, RECORD_RESPONSE = 3, RECORD_END = 4 };

// LOOKUP has a layout of its own, and comes before what its connection carries.
enum lookup_kind { RECORD_LOOKUP = 5 };

// A name that a process asked its libc for, before it made this connection to one of the answers. See lookups.c.
struct lookup {
  u8 kind;
  u8 is_same_thread;  // the one that asked has connected; else another one of its process
  u8 is_only_name;    // that the process has asked for and got this address
  u8 answer_count;
  u32 pid;
  u32 tid;  // that asked
  u32 unused;
  u64 connection;
  u64 former_connection;  // for which it was told before, by mistake; 0: none
  u64 start_monotonic_ns;
  u64 end_monotonic_ns;
  u8 families[8];     // of the answers: AF_INET 2, AF_INET6 10
  u8 addresses[128];  // 16 bytes each, IPv4 in the first four
  u8 name[256];       // zero behind its end
};

// The numbers of OpenTelemetry's SpanKind.
enum role { ROLE_UNKNOWN = 0, ROLE_SERVER = 2, ROLE_CLIENT = 3 };

enum end_reason {
  END_NONE = 0,
  END_NEXT_REQUEST = 1,  // a new request began on this connection
  END_CLOSED = 2,        // the watched process closed the connection
  END_PEER_CLOSED = 3,   // the watched process read the end of the stream
  END_RESET = 4,         // the connection was reset
  END_NOT_HTTP = 5,      // the answer does not begin like HTTP/1
  END_SOCKET_GONE = 6,  // not seen: its bytes were moved unseen, or its socket's address is another connection's now
  END_TIMED_OUT = 7,  // TCP gave up: the peer no longer acknowledged anything
  END_NEXT_RESPONSE = 8,  // of a response, not of the exchange: a further one began on this connection
};

// Facts about the connection, kept from its beginning or from one exchange to the next.
enum record_flag {
  FLAG_ROLE_BY_CONNECTION = 1,  // accept or connect was seen; else the role comes from who sent the request
  FLAG_PEER_SHUTDOWN = 2,  // the server read end-of-stream before it had answered
  FLAG_PAYLOAD_IS_END = 4,  // captured are the last bytes of what the call moved, not the first
  FLAG_CHUNKS_FOLLOWED = 8,  // the response's body reads like chunks from its first byte on: see chunks.c
  FLAG_CHUNKS_ENDED = 16,  // and its last chunk has been seen
  FLAG_REQUEST_CHUNKS_ENDED = 32,  // the request's body read like chunks from its first byte on, and ended where what
                                   // this record tells of begins, or with `request_bytes`: RESPONSE, END
  FLAG_TLS = 64,  // the plain text of a TLS connection
  // The last bit says one thing of a request and another one of what comes later.
  FLAG_CALLER_WATCHED = 128,  // REQUEST to a server: the client is a target, too, and its record will come or has come
  FLAG_UNSENT = 128,  // else: `response_last` is when it was handed over, not when it was sent: see go_tls.c
};

// On what the parent of an exchange rests: what ran, by its runtime's own account, when the exchange began. One list
// for all.
enum link_evidence {
  LINK_NONE = 0,
  LINK_THREAD = 1,  // the one request that its thread was serving
  LINK_CONTEXT = 2,  // the context that ran in its thread: CPython's own
  LINK_EXECUTOR = 3,  // a job that was handed to a pool
  LINK_GREENLET = 4,  // the greenlet that ran in its thread
  LINK_GOROUTINE = 5,
  LINK_PROCESS = 6,  // it is a process that was started under that request
  LINK_UPSTREAM = 7,  // nginx's own request
  LINK_CALLBACK = 8,  // the callback that ran in its thread: Node's own
  LINK_CONNECTION = 9,  // the other end of its connection
  LINK_HANDLER = 10,  // a context that was made for a connection, on which that request was the newest
  LINK_REQUEST_CONTEXT = 11,  // the context that the program sent it with is that request's, or was made of it
};

// What sent this request was made under the one that it belongs to, and may work for another by now: see owners.c.
#define LINK_MAY_ERR 0x100

struct record {
  u8 kind;
  u8 lost;  // exchanges of this connection counted as lost so far, modulo 256
  u8 role;
  u8 family;  // AF_UNIX 1, AF_INET 2, AF_INET6 10
  u8 reason;  // enum end_reason, END only
  u8 flags;  // enum record_flag
  u16 captured_bytes;
  u32 pid;  // as the agent's PID namespace numbers it
  u32 tid;
  u32 service_pid;  // the process that this one was forked from to serve, or itself
  u32 position;  // of the exchange on its connection, from 0
  u64 connection;  // unique as long as the agent runs
  u64 at_monotonic_ns;
  u64 request_bytes;  // of the exchange so far, this call included
  u64 response_bytes;
  u64 request_last_monotonic_ns;  // 0: none yet
  u64 response_last_monotonic_ns;
  u32 total_bytes;  // moved by this call
  u16 local_port;
  u16 remote_port;
  u8 local_address[16];  // IPv4 in the first four
  u8 remote_address[16];
  u8 tail[8];  // the last bytes of the response, zero where unread
  u64 chunk_payload_bytes;  // END, with FLAG_CHUNKS_FOLLOWED: of the response's chunks
  // Of a client's REQUEST: the server's exchange under which it began. Of a server's on a Unix socket: the client's
  // connection, if that is watched; its position is then this one's.
  // Of what comes later, with FLAG_REQUEST_CHUNKS_ENDED: how much payload the request's chunks had; how many bytes they
  // were on the wire, modulo 2^32.
  u64 parent_connection;
  u32 parent_position;
  // REQUEST only, else zero.
  u32 parent_evidence;  // enum link_evidence, perhaps with LINK_MAY_ERR; LINK_NONE: there is no parent, or none known
  // By these and the addresses the two ends of one connection know each other.
  u32 network_namespace;  // inode number; 0: not known
  u32 sequence;  // TCP's number of this request's first byte, of a TLS connection its stream's first; 0: not known
};

// How far the newest exchange of a connection has come, in memory that user space maps: nothing here can be lost.
// Slot: connection % PROGRESS_SLOTS. Written: times first, then bytes, then `ended`; read in the opposite order.
#define PROGRESS_UNSENT (1ull << 63)  // in the time, and no flag, so that both change at once
struct progress {
  u64 connection;
  u32 position;
  u8 ended;  // enum end_reason, 0 while open
  u8 lost;  // 1: records of this exchange did not fit into the ring; the kernel has counted it
  u8 lost_count;  // of the connection, as in struct record
  u8 flags;  // FLAG_CHUNKS_*
  u64 response_bytes;
  u64 response_last_monotonic_ns;  // with PROGRESS_UNSENT: see FLAG_UNSENT
  u64 request_bytes;
  u64 request_last_monotonic_ns;
  u8 tail[8];
  u64 chunk_payload_bytes;
};

enum process_event_kind {
  PROCESS_EXEC = 1,
  PROCESS_FORK = 2,
  PROCESS_EXIT = 3,
  PROCESS_LISTEN = 4,
  PROCESS_MAPPED = 5
};

struct process_event {
  u32 kind;
  u32 pid;
  u32 parent_pid;  // FORK: the process that forked
  u16 port;  // LISTEN: the local port; EXEC: 1 when it begins with a connection of a client's as its standard input
  u16 is_target;  // the kernel already watches it (inherited, or its port or executable is selected)
  u8 command[16];
  u64 executable_inode;  // EXEC: of the file that runs now
  u32 executable_device;
  u32 unused;
};

// Index into `counters`, one array for the host, and into the entries of `ledger`, one for each service.
enum counter {
  COUNT_BEGAN = 0,  // exchanges whose first bytes were seen
  COUNT_LOST_RING_FULL = 1,  // exchanges: a record did not fit into the ring; `lost` of its connection says the same
  COUNT_LOST_CONNECTIONS_FULL = 2,  // exchanges: the table of connections was full
  COUNT_NOT_HTTP = 3,  // began like a request, answered like something else
  COUNT_END_RING_FULL = 4,  // END records that did not fit; the progress table still tells
  COUNT_PROCESS_EVENTS_LOST = 5,
  COUNT_COMPAT_SYSCALLS = 6,  // 32-bit system calls of targets, not read
  COUNT_HTTP2 = 7,  // connections that began with the HTTP/2 preface, or with a server's SETTINGS
  COUNT_TLS = 8,  // connections that began with a TLS handshake
  COUNT_IO_URING = 9,  // calls of io_uring_enter by targets: what moves through it is not read
  COUNT_OLDER = 10,  // exchanges: an answer was seen whose request had begun before its connection was known
  COUNT_TLS_SEEN = 11,  // of those: whose plain text was seen
  COUNT_TLS_UNPROVEN = 12,  // calls of TLS functions whose connection could not be proven
  COUNT_CALLS_UNSEEN = 13,  // calls on sockets whose bytes were not seen
  COUNT_LOOKUPS_RING_FULL = 14,  // lookups of names that did not fit into the ring
  COUNT_LOOKUPS_FAILED = 15,
  COUNT_ANSWERED_FIRST = 16,  // exchanges: the answer was read before the call that sent the request had returned
  COUNTERS = 17,
};
