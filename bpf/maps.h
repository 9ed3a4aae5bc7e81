// Every map once. Those of the kind "hash" are given their memory as entries come, where the kernel can do so: see
// probe/growing_maps.py. All others have it from the start.
#pragma once
#include "limits.h"
#include "records.h"

enum connection_state {
  STATE_IDLE = 0,      // between exchanges
  STATE_REQUEST = 1,   // a request has begun
  STATE_RESPONSE = 2,  // its final response has begun
  STATE_FOREIGN = 3,   // not HTTP/1, or no longer: left alone until it closes
};

enum chunks_state {    // see chunks.c
  CHUNKS_OFF = 0,      // not followed, or given up
  CHUNKS_AWAITED = 1,  // of a request: its head ended with the call, a body may come in the next one
  CHUNKS_HEAD = 2,     // `left_bytes` bytes of the head are still to come
  CHUNKS_SIZE = 3,     // in a size line
  CHUNKS_DATA = 4,     // `left_bytes` bytes of a chunk and its line end are still to come
  CHUNKS_LAST = 5,     // where a line begins behind the last size line: an empty one ends the body
  CHUNKS_TRAILER = 6,  // in such a line that is not empty
  CHUNKS_ENDED = 7,
};

enum chunks_of { REQUEST_CHUNKS = 0, RESPONSE_CHUNKS = 1 };

struct chunks {
  u64 payload_bytes;
  u32 left_bytes;
  u8 state;   // enum chunks_state
  u8 digits;  // of the size line in hand; with SIZE_SPACE or SIZE_EXTENSION it has come further
  u16 unused;
};
#define SIZE_SPACE 0x40
#define SIZE_EXTENSION 0x80

enum connection_flag {
  CONNECTION_BY_ACCEPT = 1,      // accept or connect was seen
  CONNECTION_UNREPORTED = 2,     // a record of this exchange was lost: say nothing more of it
  CONNECTION_UNTOLD = 4,         // bytes moved since the last record of this exchange
  CONNECTION_PEER_SHUTDOWN = 8,
  CONNECTION_RESET = 16,         // reset by the peer while the process may still read what came before
  CONNECTION_REQUEST_HEAD_ENDED = 32,  // an empty line was seen
  CONNECTION_REQUEST_HEAD_DONE = 64,   // and nothing was behind it
  CONNECTION_RESPONSE_HEAD_DONE = 128,
  CONNECTION_PIPELINED = 256,  // a further request came before the answer: heads may begin within calls
  CONNECTION_TIMED_OUT = 512,  // with CONNECTION_RESET: TCP gave up, no reset came
  CONNECTION_TLS = 1024,             // what crosses the socket is ciphertext: see tls.c
  CONNECTION_TLS_HEADER_READ = 2048, // so far the header of its first record
  CONNECTION_TLS_SEEN = 4096,        // its plain text has been seen
  CONNECTION_TOLD_EARLY = 8192,      // its responses are told before the socket has taken them: see go_tls.c
  CONNECTION_CALLER_WATCHED = 16384,  // a target has made it
  CONNECTION_HAS_PIPELINED = 32768,  // in an exchange before: which of two requests is worked on, nothing tells
};

// How it is known whose a number of Node's is: see node.c.
enum number_kind {
  NUMBER_OF_OTHERS = 0,  // of another runtime
  NUMBER_HAS_RUN = 1,  // a callback of this number was seen to run for the request
  NUMBER_WAS_MADE = 2,  // it was made for the request: a socket of Node's own, for one
  NUMBER_IN_JOB = 3,  // it was given while a job of a promise ran for the request
};

// Whose work it is: see owners.c.
enum owner_kind {
  OWNER_NOBODY = 0,
  OWNER_EXCHANGE = 1,
  OWNER_CONNECTION = 2,  // the exchange that the connection has at that time
  OWNER_AMBIGUOUS = 3,  // of what had two requests in hand at once: nobody, from then on
};

struct owner {
  u64 sock;
  u64 connection;
  u32 position;
  u8 kind;  // enum owner_kind
  u8 lineage;   // 0: it has read the request itself; 1: it was made by what has; 2: by what was made so, or further
  u8 evidence;  // enum link_evidence, of a link by it
  u8 number;    // enum number_kind: of a number of Node's
};

struct tls_key {
  u32 pid;
  u32 is_outbound;  // the process sent the ClientHello
  u64 random[2];  // its first half
};

struct connection {
  u64 id;
  u64 request_bytes;
  u64 response_bytes;
  u64 request_last_monotonic_ns;
  u64 response_last_monotonic_ns;
  u32 position;
  u32 pid;
  u32 tid;
  u32 service_pid;
  u32 request_captured;
  u32 response_captured;
  u32 request_head_last;   // the last four bytes captured of a head in pieces, 0 at its beginning
  u32 response_head_last;
  u16 local_port;
  u16 remote_port;
  u16 flags;
  u8 state;
  u8 role;
  u8 family;
  u8 lost;  // see struct record
  u16 beside;  // of a Go program: its position and one, if another request was in hand meanwhile
  u32 request_body_at;      // so many of the request bytes came before the chunks that are followed, modulo 2^32
  struct chunks chunks[2];  // by enum chunks_of
  u64 descriptor_key;  // pid << 32 | descriptor, of the last use; of TLS of the first; with kprobes else the socket
  u64 ciphertext_sent_monotonic_ns;  // of a TLS connection: when its socket last took bytes
  u64 sent_monotonic_ns;  // with CONNECTION_TOLD_EARLY: when what was told had been sent, if later than that
  u8 tail[8];
  u8 local_address[16];
  u8 remote_address[16];
  u64 parent_connection;  // of the exchange, as in struct record; set when it begins
  u32 parent_position;
  u32 network_namespace;
  u32 sequence;  // of what is told: see struct record
  u32 read_sequence;  // TCP's number behind the last byte that was seen to be read; 0: not known. See unseen.c
  u32 written_sequence;
  u8 parent_evidence;
  u8 children;  // so many contexts what has read the request has made since; 255: or more
  u8 parent_may_err;  // as LINK_MAY_ERR says
  u8 is_request_to_come;  // of an exchange that was answered first
  struct owner asked_by;  // whose request the next one is for: of Node's by TLS
  union {
    u64 connect_number;  // of Node's callback for when it is connected; 0: not known
    u64 nginx_connection;  // where nginx keeps what it knows of it, as far as is known
  };
  struct tls_key hello;  // under which `tls_sockets` has it; pid 0: it has not
};

// connections: what is known of each open connection of a target.
//   key     address of its struct sock, so that every process and descriptor that shares the socket shares this
//   added   accept, connect, or the first request or answer on a connection older than the agent
//   removed when TCP says that it is closed; Unix sockets: when a target closes the descriptor
//   full    the exchange is counted as lost (COUNT_LOST_CONNECTIONS_FULL)
BPF_TABLE("hash", u64, struct connection, connections, MAX_CONNECTIONS);

// callers: TCP connections that targets have made; servers among the targets ask.
//   key     TCP's number of the first byte that the client sends
//   added   by connect
//   removed when the server that has accepted it reads its first request
//   full    LRU: a client's record that comes behind its server's answer comes too late
BPF_TABLE("lru_hash", u32, u8, callers, MAX_CALLERS);

// descriptors: which socket a target's descriptor is, for close(), when the file table no longer tells.
//   key     pid << 32 | descriptor
//   added   with the connection, also where that found no room, and when it is used by another one (dup, fork)
//   removed by close
//   full    LRU: a Unix connection's end is then seen by its peer's side or its next use only
BPF_TABLE("lru_hash", u64, u64, descriptors, MAX_CONNECTIONS);

enum target_flag {
  TARGET_EXCLUDED = 1,               // the agent's own processes: never watched, whatever they do
  TARGET_WITHOUT_RETURN_PROBES = 2,  // it switches stacks (greenlet): a return probe would end it
  TARGET_IS_PYTHON = 4,              // see `interpreters`
  TARGET_READS_OUTSIDE = 8,          // its event loop reads outside of any context (uvloop)
  TARGET_IS_GO = 16,                 // see `go_programs`
  TARGET_IS_NODE = 32,               // see `node_programs`
  TARGET_IS_NGINX = 64,              // see nginx.c
};

struct target {
  u32 service_pid;  // 0: it is one no more; what it has begun is seen to its end
  u32 flags;  // enum target_flag
};

// targets: the processes that are watched.
//   key     pid in the agent's namespace
//   added   by the probe; here by fork of a target and by listen on a selected port
//   removed by the probe, and here at exit; of what lives on and is to be watched no more, first its service
//   full    the process is not watched; the probe says so
BPF_TABLE("hash", u32, struct target, targets, MAX_TARGETS);

struct executable {
  u64 inode;
  u32 device;
  u32 unused;
};

// executables: files whose processes are watched from their exec on.
//   added   by the probe: when it finds the file as it starts, or when a first process of it has been selected
//   full    LRU: processes of the file are watched a moment later, when the probe has looked at them
BPF_TABLE("lru_hash", struct executable, u32, executables, MAX_EXECUTABLES);

// mapped_files: what targets have mapped to run, and whether every mapping of it is to be told.
//   key     struct executable
//   added   at its first mapping, which is told; by the probe, for what matters
//   full    LRU: a file is told of once more
enum mapped_file { MAPPED_BEFORE = 0, MAPPED_HAS_TLS = 1, MAPPED_SWITCHES_STACKS = 2 };
BPF_TABLE("lru_hash", struct executable, u32, mapped_files, MAX_MAPPED_FILES);

// selected_ports: one bit a TCP port; a process that listens on one becomes a target at once.
BPF_TABLE("array", u32, u64, selected_ports, 1024);

// progress: see struct progress. Mapped read-only by the exporter.
BPF_F_TABLE("array", u32, struct progress, progress, PROGRESS_SLOTS, BPF_F_MMAPABLE);

// slot_owners: which open connection has a slot of `progress`. What a busy one writes would hide how another has ended.
//   key     index of the slot
//   value   number of the connection, 0: none
//   written when a connection is added and removed
//   full    after MAX_SLOT_TRIES slots that are taken the last one is shared
BPF_TABLE("array", u32, u64, slot_owners, PROGRESS_SLOTS);

BPF_TABLE("percpu_array", u32, u64, counters, COUNTERS);

struct ledger_entry {
  u64 counts[COUNTERS];  // by enum counter
};

// ledger: what `counters` holds for the host, for each service on its own.
//   key     service_pid; 0 stands for all services that have no entry
//   added   with the first count of a service
//   removed by the probe, a moment after the last process
//   full    counted under 0, which the probe makes before anything else
BPF_TABLE("hash", u32, struct ledger_entry, ledger, MAX_SERVICES);
BPF_TABLE("array", u32, struct ledger_entry, no_counts, 1);  // what an entry begins with: too much for the stack

// records: exchanges, for the exporter, which polls: a wake-up would cost the watched process 9-21 us.
//   full    counted as COUNT_LOST_RING_FULL, once an exchange
BPF_RINGBUF_OUTPUT(records, RING_PAGES);

// process_events: rare, for the probe, which sleeps until one comes.
BPF_RINGBUF_OUTPUT(process_events, PROCESS_EVENT_PAGES);

// The bytes that one call moved: where they lie in the process's memory.
struct call {
  u64 address;  // of the bytes, or of an array of struct iovec
  u64 bytes;  // moved by the call
  u32 pieces;  // 0: `address` is the bytes; else how many iovecs
  u32 is_unread;  // 1: bytes that never were in the process's memory (sendfile)
  u32 is_inbound;  // 1: read by the process, 0: written
  u32 padding;
};

// What is to be said of one call. One place sends it: the code that copies is inlined once.
struct report {
  u32 kind;  // enum record_kind; 0: nothing
  u32 is_of_end;  // the call's last bytes are wanted, not its first
  u32 limit_bytes;  // at most so many
  u32 padding;
};

// A call's first bytes: enough to tell a request and a response.
struct prefix {
  u8 bytes[16];
  u64 address;
  u32 length;
  u32 padding;
};

// What runs, in a process of a runtime that says so: for CPython a context, for Go a goroutine, for Node a callback.
struct identity {
  u64 process;  // struct interpreter's, struct go_program's or struct node_thread's
  u64 address;  // of a goroutine or a callback its number
};

enum running_kind {
  RUNS_UNKNOWN = 0,
  RUNS_THREAD = 1,  // nothing but the thread
  RUNS_CONTEXT = 2,  // a context that was entered
  RUNS_GREENLET = 3,  // a greenlet, not the one that its thread began with
};

struct running {
  u32 kind;  // enum running_kind
  u32 unused;
  struct identity identity;
  u64 start;  // of a goroutine: the function that it was started with
};

// owner_map: whose work is done in a context, or by a goroutine.
//   added   when a request is read in it; when it is made by what has an owner
//   removed when it is freed; when it is made by what has none; goroutines' numbers never come again
//   full    LRU: what it calls has no parent
// That takes 3 MB, so the probe puts it in its place when it begins to follow a first process of such a runtime.
BPF_TABLE("lru_hash", struct identity, struct owner, owner_map_inside, MAX_OWNERS);
BPF_TABLE("array_of_maps$owner_map_inside", int, int, owner_map, 1);

struct responder {
  u32 children;  // how many contexts what had read each request had made; 0: it was none of these that answered
  u32 count;  // of responses, one after the other
};

// responders: what begins the responses of a server.
//   key     its port, in place of a context's address
//   added   with its first response
//   full    LRU: it has to be known anew
BPF_TABLE("lru_hash", struct identity, struct responder, responders, MAX_RESPONDERS);

enum thread_flag {
  THREAD_IS_AMBIGUOUS = 1,  // it had two requests in hand at once
  THREAD_IS_BEFORE_EXEC = 2,  // the first one of a process that runs its parent's program still
  THREAD_HAS_READ = 4,  // the next context that it enters is given what it has read
};

struct thread {
  struct owner owner;
  u64 marked;  // address of a context: the owner is that one's, until the thread enters another; 0: the thread's own
  u32 flags;  // enum thread_flag
  u32 unused;
};

// threads: whose work a thread does that works on one request at a time.
//   key     pid << 32 | tid
//   added   when it reads a request; when a process is started by one
//   removed when the thread ends
//   full    what it calls has no parent
BPF_TABLE("hash", u64, struct thread, threads, MAX_THREADS);

enum interpreter_state {
  INTERPRETER_ASSUMED = 0,  // its layout is that of its version; no context has been made yet
  INTERPRETER_PROVEN = 1,  // its threads' contexts have been found where the layout says
  INTERPRETER_REFUSED = 2,  // they have not: nothing is said of what it does
};

// Where CPython keeps what runs in a thread.
struct interpreter {
  u64 process;  // unique, also among those that had the number before
  u64 context_type;  // address of PyContext_Type
  u32 storage_key;  // of the thread's PyThreadState among its POSIX thread-specific data
  u32 context;  // in PyThreadState: a pointer to what is current; 0: not known
  u32 state;  // enum interpreter_state
  u32 tries;
  u64 greenlet_type;  // address of PyGreenlet_Type
  u32 greenlet_module;  // number of greenlet's thread-local storage; 0: not known
  u32 thread_without;  // the last one that has made a context while none was current
};

// interpreters: processes that run CPython.
//   key     pid
//   added   by the probe when its contexts are followed; here by fork
//   removed by the probe, and here by exec and exit
//   full    no call of the process has a parent
BPF_TABLE("hash", u32, struct interpreter, interpreters, MAX_INTERPRETERS);

// Of a process of nginx: how often what leads from an upstream connection to its request was where it should be.
struct upstream_tally {
  u64 found;
  u64 lost;
};

// upstream_tallies: for people, where it never was.
//   key     pid
//   removed when the process ends
//   full    LRU: it is counted anew
BPF_TABLE("lru_hash", u32, struct upstream_tally, upstream_tallies, MAX_NGINX);

// Where Go keeps what is asked of a goroutine: offsets in its runtime.g.
struct go_program {
  u64 process;  // unique, also among those that had the number before
  u32 number;
  u32 parent_number;
  u32 start;  // the address of the function that it was started with
  u32 context;  // in net/http.Request
  u64 cancels;  // the type of a request's context, as an interface value has it; 0: no request has been served yet
};

// go_programs: processes that run a Go program whose goroutines are followed.
//   key     pid
//   added   by the probe, once all its places bear probes
//   removed by the probe, and here by exec and exit
//   full    no call of the process has a parent
BPF_TABLE("hash", u32, struct go_program, go_programs, MAX_GO_PROGRAMS);

struct go_trial {
  u64 believed_from_monotonic_ns;
  u64 newest_monotonic_ns;  // of the requests under which such goroutines have called: when the last one was read
  u64 requests;  // how many, each read after the one before
};

struct go_start {
  struct go_trial any;
  struct go_trial beside;  // of requests that were in hand beside another one
  u64 is_worker;  // 1: one has called when its request had been answered, or for another one
};

// go_starts: functions that goroutines of requests were started with, to tell what works for one request from workers.
//   key     the function's address, in place of a number
//   added   with the first call by such a goroutine
//   full    LRU: it has to be known anew, and till then says nothing
BPF_TABLE("lru_hash", struct identity, struct go_start, go_starts, MAX_GO_STARTS);

struct go_newest {
  u64 told;  // how many
  struct owner requests[GO_NEWEST];  // by the numbers of their connections
};

// go_newest: the newest requests of a Go program, to tell which are in hand beside each other.
//   key     struct go_program's process
//   added   when a handler is called, or starts a goroutine
//   full    LRU: those that are in hand then seem to be alone
BPF_TABLE("lru_hash", u64, struct go_newest, go_newest, MAX_GO_NEWEST);

// go_requests: whose request a connection of net/http's client is to send next.
//   key     the address of its persistConn, in place of a number
//   added   by roundTrip, in the caller's goroutine
//   removed when it is sent; by a roundTrip of which it is not known
//   full    LRU: the call has no parent
BPF_TABLE("lru_hash", struct identity, struct owner, go_requests, MAX_GO_CONNECTIONS);

struct go_context {
  struct owner owner;
  u64 parent;  // address of the context that it was made of
};

// go_contexts: requests that net/http serves, by their contexts.
//   key     the context's address, in place of a number
//   added   when the request's handler is called
//   removed when another request's is called with a context at the same address
//   full    LRU: what is called with it is told by goroutines alone
BPF_TABLE("lru_hash", struct identity, struct go_context, go_contexts, MAX_GO_CONTEXTS);

// go_writers: goroutines that write for such a connection.
//   value   the address of its persistConn
//   full    LRU: added again with each write
BPF_TABLE("lru_hash", struct identity, u64, go_writers, MAX_GO_CONNECTIONS);

// Where Node keeps what runs: addresses of tables of virtual functions, which say what an object is, and offsets in
// bytes.
struct node_program {
  u64 followed_monotonic_ns;  // since when
  u64 tcp;  // node::TCPWrap
  u64 pipe;
  u64 tls;
  u64 parser;
  u32 id;  // in node::AsyncWrap
  u32 realm;
  u32 environment;  // in node::Realm
  u32 numbers;  // in node::Environment: a pointer to struct node_numbers, in an AliasedBuffer
  u32 hooks;  // the same to what async_hooks counts: u32s
  u32 loop;
  u32 stream_of_handle;  // in an object: one of its bases
  u32 stream_of_tls;
  u32 listener_of_tls;
  u32 listener_of_parser;
  // What the probe says for people: how often
  u32 threads_full;  // a thread found no room
  u32 unread;  // numbers were none
  u32 queues;  // a thread had jobs in more than one queue
  u32 unused;
};

// node_programs: processes that run a Node whose callbacks are followed.
//   key     pid
//   added   by the probe, once all its places bear probes
//   removed by the probe, and here by exec and exit
//   full    no call of the process has a parent
BPF_TABLE("hash", u32, struct node_program, node_programs, MAX_NODE_PROGRAMS);

// What Node has in an array of doubles.
struct node_numbers {
  u64 runs;  // the callback that runs; 0: none
  u64 under;  // under which that was made
  u64 last;  // the last number that was given
};

// Of 64 numbers: which of them objects have that call back again and again.
struct node_block {
  u64 index;  // the first one's number, divided by 64
  u64 lasting;
};

struct node_request {
  struct owner owner;
  u64 after;  // the last number that was given when the request was read
};

// One environment of Node: a worker has its own.
struct node_thread {
  u64 process;  // unique, also among those that had the thread before
  u64 environment;
  u64 numbers_at;
  u64 hooks_at;
  u64 first;  // the last number that was given when it was seen first
  u64 pid_tid;  // its key
  u64 followed_monotonic_ns;  // its program's, when that was seen first
  struct node_numbers numbers;  // as they were read last
  // What is in hand; here and not on the stack, of which on_sys_exit has none left.
  u64 word;
  struct identity key;
  struct node_request request;
  struct node_block blocks[NODE_BLOCKS];  // of the last NODE_NUMBERS numbers
};

// node_threads: threads that run Node.
//   key     pid << 32 | tid
//   added   when something native is given a number in it
//   removed when the thread ends
//   full    no call of the thread has a parent, and the probe says so
BPF_TABLE("hash", u64, struct node_thread, node_threads, MAX_NODE_THREADS);
BPF_TABLE("array", u32, struct node_thread, no_node_thread, 1);  // what one begins with: too much for the stack

// node_requests: which request a parser of a server has in hand.
//   key     the parser's number
//   added   when its connection reads a request
//   full    LRU: what it calls has no parent
BPF_TABLE("lru_hash", struct identity, struct node_request, node_requests, MAX_NODE_REQUESTS);

struct node_reaction_key {
  u64 process;
  u64 handler;  // its address; 0: any
  u64 result;  // of the promise that is to be fulfilled by it
};

// What is to run when a promise is fulfilled or rejected, and for whom.
struct node_reaction {
  u64 handler;  // 0: any
  u64 rejected;  // the other one, for when it is rejected; 0: none
  u64 result;
  struct owner owner;
  u64 is_used;  // 2: taken out, as it was moved
};

// The jobs of promises of one thread.
struct node_jobs {
  u64 queue;  // address of its v8::internal::MicrotaskQueue
  u64 finished;  // how many had ended when the one in hand began
  u64 after;  // the last number that was given then
  struct owner owner;  // for whom it runs
  u32 is_open;  // it may run still
  u32 is_refused;  // nothing is said of it any more
  u32 next;  // where a place for a reaction is looked for
  u32 collected;  // how many reactions have been gone through after a collection, twice
  u32 place;  // of the reaction in hand
  u32 unused;
  struct node_reaction_key key;  // of the lookup in hand
  struct node_reaction moved;  // where the one in hand is after a collection
  struct node_reaction reactions[NODE_REACTIONS];
};

// node_jobs: threads that run jobs of promises, where these are followed.
//   key     pid << 32 | tid
//   added   with the first jobs
//   removed when the thread ends
//   full    what goes on behind an `await` has no parent, and the probe says so
BPF_TABLE("hash", u64, struct node_jobs, node_jobs, MAX_NODE_JOBS);
BPF_TABLE("array", u32, struct node_jobs, no_node_jobs, 1);

// node_reactions: which of a thread's reactions has this handler and result.
//   added   by `await` and `then`
//   removed when it runs; when another one has the same addresses; taken elsewhere by collections
//   full    LRU: what it calls has no parent
BPF_TABLE("lru_hash", struct node_reaction_key, u32, node_reactions, MAX_NODE_REACTIONS);
BPF_TABLE("prog", int, int, node_tail_programs, 1);

// How far a copy from several pieces has come.
struct captured {
  u64 wanted;
  u64 done;
};

struct chunk_place {
  u64 left_bytes;
  u64 offset;
  u32 piece;
  u16 rounds;  // of on_chunks, through this call
  u16 is_begun;  // it goes on; else with what the connection has
};

// What on_heads is to look at: bytes of a head that were copied to scratch->payload, and are not sent yet.
struct head_block {
  u64 offset;  // in the call
  u32 captured;  // bytes
  u32 kind;  // of the record
  u64 head_end;  // in the block; 0: not in it
  u64 is_behind_chunks;  // the request's, in `scratch`, have ended where the block begins
};

// scratch: where a record is put together. Used by sys_exit programs alone, which cannot interrupt one another on
// one CPU; what runs in softirq keeps its record on the stack.
// What tells whose work is done, beside the requests themselves.
enum for_owners { FOR_OWNERS_NOTHING = 0, FOR_OWNERS_ANSWER = 1, FOR_OWNERS_HANDSHAKE = 2 };

struct scratch {
  struct record record;
  u8 payload[2 * REQUEST_CAPTURE_BYTES];  // twice: the verifier adds the greatest offset and the greatest length
  // Here and not on the stack: the verifier forgets what it knows of a value that goes through a map, and so follows
  // the code behind once, not once for each system call that leads there (107,000 instructions to verify, else).
  struct call call;
  struct prefix prefix;
  u64 sock;  // that it went through
  struct report report;
  struct captured captured;
  struct head_block head_block;
  struct chunk_place chunk_place;
  struct iovec pieces[MAX_IOVECS];  // of the call in hand
  u32 last_piece;  // that holds the call's last byte
  u32 padding;
  u64 last_piece_bytes;  // of it that were moved
  struct connection fresh;
  u64 connections_made;
  u64 is_taken;  // tls_scratches only
  struct chunks chunks;  // what on_chunks follows
  u64 chunks_index;  // whose they are: enum chunks_of
  u64 told_bytes;  // of the call in hand, by records with its first bytes
  u64 for_owners;  // what on_owners has to look at first: enum for_owners
  u64 go_on;  // and with what then: enum go_on
  struct running running;  // what begins it
};
BPF_TABLE("percpu_array", u32, struct scratch, scratch, 1);

#ifdef BY_KPROBES
// A call on a socket that has been entered.
struct open_call {
  u64 sock;  // 0: none
  u64 address;  // of the bytes, or of what says where they are
  u64 skipped;  // bytes of the first piece
  u64 wanted_bytes;
  u32 kind;  // enum memory_kind
  u32 pieces;  // how many; of a pipe, its next place
  u32 ring_size;  // of a pipe
  u32 is_inbound;
  u32 service_pid;
  u32 padding;
};

// open_calls: of each thread of a target, the call that it is in.
//   key     the thread, in the kernel's own numbers
//   added   with the thread's first call; it stays, without a socket, for the next one
//   removed at the end of the thread
//   full    the connection is given up and counted (COUNT_CALLS_UNSEEN)
BPF_TABLE("hash", u64, struct open_call, open_calls, MAX_OPEN_CALLS);

// page_places: addresses of the kernel's variables that say where its pages are described, and where they are mapped.
//   written by the loader; zero: not known, or another architecture. Then what lies in pages is counted, not read.
struct page_places {
  u64 vmemmap_base;
  u64 page_offset_base;
};
BPF_TABLE("array", u32, struct page_places, page_places, 1);
#endif

// tail_programs: what on_sys_exit goes on with; programs of their own, because the verifier has a bound for each.
//   filled  by the loader, once
enum tail_program {
  TAIL_CHUNKS = 0,
  TAIL_HEADS = 1,
  TAIL_OWNERS = 2,
  TAIL_BEGINNING = 3,
  TAIL_PROGRAMS = 4,
  TAIL_BYTES = 4,
  TLS_TAIL_PROGRAMS = 5,
};
BPF_TABLE("prog", int, int, tail_programs, TAIL_PROGRAMS);

// Where a TLS library keeps what proves which socket an object belongs to; offsets in bytes.
#define NO_STATE_POINTER 0xffff
struct tls_layout {
  u16 state_pointer;  // in the object: to what holds the random; NO_STATE_POINTER: the object itself
  u16 random;
  u16 server_flag;
  u16 read_bio;  // in the object: to what it reads from; 0: not known
  u32 server_mask;
  u16 bio_method;  // in that
  u16 bio_number;  // in that, of a socket: its descriptor; 0: `read_bio` is the descriptor, or a pointer of the program
};

// tls_layouts: one for each library that is attached to; written by the probe.
BPF_TABLE("array", u32, struct tls_layout, tls_layouts, MAX_TLS_LAYOUTS);

struct tls_socket {
  u64 sock;
  u64 connection;
  u64 is_conflict;  // two connections with one random
};

// tls_sockets: whose ClientHello it was.
//   added   when a ClientHello crosses a socket of a target; when a connection that is older is proven
//   removed with the connection: see its `hello`
//   full    there is room for one of each connection
BPF_TABLE("hash", struct tls_key, struct tls_socket, tls_sockets, MAX_CONNECTIONS);

struct tls_ciphertext {
  u64 pid;
  u64 bytes[4];
};

// tls_ciphertexts: which socket took a piece of ciphertext that begins so.
//   added   when a connection that is older than the agent receives, until it is proven whose it is
//   full    LRU: it is proven by a later piece
BPF_TABLE("lru_hash", struct tls_ciphertext, struct tls_socket, tls_ciphertexts, MAX_TLS_CIPHERTEXTS);

struct tls_object {
  u64 address;
  u64 pid;
};

// tls_objects: to which connection an object was proven to belong. It proves nothing of a later call, for addresses are
// used again; but when that cannot be proven any more (renegotiated), the connection's bytes are not seen any more.
//   added   with the first plain text of a connection
//   full    LRU: an exchange that went on unseen ends with its connection
BPF_TABLE("lru_hash", struct tls_object, struct tls_socket, tls_objects, MAX_TLS_OBJECTS);

// Which call of a function is meant: unique also where functions call one another, or stacks are switched.
struct tls_frame {
  u64 pid_tid;
  u64 stack;  // where the stack pointer stands when the function has returned
};

struct tls_call {
  u64 object;
  u64 buffer;
  u64 count_address;  // 0: the function returns the count
  u64 entered_monotonic_ns;  // of writes
  u32 layout;
  u8 is_write;
  u8 is_of_file;  // what it moves is not in the process
  u16 scratch;  // that its programs use
  u32 service_pid;
  u32 is_told_early;  // what it writes is told as it is entered
};

// tls_calls: functions that have been entered.
//   removed at their return
//   full    LRU: threads that were killed inside leave theirs behind
BPF_TABLE("lru_hash", struct tls_frame, struct tls_call, tls_calls, MAX_TLS_CALLS);

struct goroutine {
  u64 address;
  u64 pid;
};

struct go_write {
  u64 sock;
  u64 connection;
  u64 entered_monotonic_ns;
};

// go_writes: what goroutines of servers have begun to write. In whichever thread they end it.
//   removed when it has been sent
//   full    LRU: the exchange ends when the next request is read, or with its connection
BPF_TABLE("lru_hash", struct goroutine, struct go_write, go_writes, MAX_GO_WRITES);

struct open_lookup {
  u64 start_monotonic_ns;
  u64 name;  // where the caller has it
  u64 result;  // where it wants the answers
};

// open_lookups: getaddrinfo has been entered.
//   key     pid_tid
//   removed at its end; by the thread's next one
//   full    LRU: threads that were killed inside leave theirs behind
BPF_TABLE("lru_hash", u64, struct open_lookup, open_lookups, MAX_LOOKUPS);

// lookups: the last name that each thread asked for and got.
//   key     pid_tid
//   full    LRU: a connection that follows is told without its name
BPF_TABLE("lru_hash", u64, struct lookup, lookups, MAX_LOOKUPS);
BPF_TABLE("array", u32, struct lookup, no_lookup, 1);  // what one begins with: too much for the stack

struct answer_key {
  u64 pid_tid;  // tid 0: for any thread
  u64 family;
  u8 address[16];
};

struct answer {
  u64 pid_tid;  // that asked
  u64 at_monotonic_ns;
  u64 name_hash;
  u16 port;  // that was asked for; 0: none
  u8 is_doubtful;  // for other threads: the one before may still be waited for
  u8 has_other_names;  // for all threads: there have been other ones with this address
  u32 unused;
};

// answers: addresses, with the last lookup that they came from.
//   added   twice: for the thread that asked, and for its process
//   full    LRU: as above
BPF_TABLE("lru_hash", struct answer_key, struct answer, answers, MAX_ANSWERS);

struct claim_key {
  u64 pid_tid;  // these two name a lookup
  u64 at_monotonic_ns;
  u64 family;
  u8 address[16];
};

struct claim {
  u64 connection;
  u64 is_final;  // nobody else's can have been meant, or nobody's is known to be
};

// claims: answers that were connected to.
//   full    LRU: twice what the answers of a moment need
BPF_TABLE("lru_hash", struct claim_key, struct claim, claims, MAX_ANSWERS);

// tls_scratches: for uprobes, which can interrupt one another on one CPU.
//   full    the connection is given up and counted (COUNT_TLS_UNPROVEN)
BPF_TABLE("percpu_array", u32, struct scratch, tls_scratches, TLS_SCRATCHES);
BPF_TABLE("prog", int, int, tls_tail_programs, TLS_TAIL_PROGRAMS);
