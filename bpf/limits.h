// Every size and count, with its reason. The loader may override what stands under #ifndef.
#pragma once

#ifndef MAX_CONNECTIONS
#define MAX_CONNECTIONS 16384  // open connections of all targets; 272 bytes each
#endif
#ifndef RING_PAGES
#define RING_PAGES 2048  // 8 MiB: 0.4 s of 20,000 requests a second with heads of 0.5 KB
#endif
#ifndef CPU_BITS
#define CPU_BITS 12  // of a connection's number; the loader passes what this host needs
#endif

// LRU maps take all their memory at once. A processor keeps up to 128 of their free entries to itself, and another one
// that finds none drops what is in use: so there are more of them for more processors, four times as many at most.
#define LRU_SPARE ((128 << CPU_BITS) - 256)
#define LRU_ENTRIES(entries) ((entries) + (LRU_SPARE < 3 * (entries) ? LRU_SPARE : 3 * (entries)))
#define MAX_CALLERS LRU_ENTRIES(2048)  // connections that nobody has accepted yet; and of others the newest
#define MAX_TLS_OBJECTS LRU_ENTRIES(2048)  // the newest ones
#define MAX_GO_WRITES LRU_ENTRIES(4096)  // that have begun

#define MAX_EXECUTABLES 1024    // files that OTEL_EBPF_AUTO_TARGET_EXE has matched
#define MAX_OPEN_CALLS 8192     // threads of targets that use sockets; 64 bytes each
#define MAX_PAGE_PIECES 16      // of one call: what a pipe holds, so also what one sendfile moves at a time
#define MAX_TLS_LAYOUTS 256
#define MAX_TLS_CALLS LRU_ENTRIES(4096)
#define MAX_TLS_CIPHERTEXTS LRU_ENTRIES(1024)  // of connections older than the agent, until each is proven
#define MAX_INTERPRETERS 4096    // processes that run CPython; 56 bytes each
#define MAX_OWNERS 32768         // contexts, goroutines and the like that belong to requests; 40 bytes each
#define MAX_THREADS 16384        // that serve requests, or were started by one; 48 bytes each
#define MAX_NGINX 1024           // processes of nginx that are asked for upstream connections
#define MAX_GO_PROGRAMS 4096     // processes; 32 bytes each
#define MAX_GO_STARTS LRU_ENTRIES(2048)       // functions that goroutines were started with
#define MAX_GO_NEWEST LRU_ENTRIES(256)        // processes with requests in hand
#define MAX_GO_CONNECTIONS LRU_ENTRIES(2048)  // of net/http's clients that a request is about to be sent on
#define MAX_GO_CONTEXTS LRU_ENTRIES(2048)     // of requests that net/http serves, the newest ones
#define MAX_NODE_PROGRAMS 1024   // processes; 80 bytes each
#define MAX_NODE_THREADS 128     // that run Node: one for each process, and one for each worker; 8 KB each
#define MAX_NODE_REQUESTS LRU_ENTRIES(4096)  // in the hands of servers
#define NODE_BLOCKS 512          // of 64 numbers each: 300 requests in flight; a power of two
#define MAX_NODE_JOBS 16         // threads whose promises are followed; 56 KB each
#define MAX_NODE_REACTIONS 32768  // of all of them; 32 bytes each
#define NODE_REACTIONS 1024      // of one thread, that are waited for; a power of two
#define NODE_REACTIONS_AT_ONCE 64  // that one program goes through; a program may be followed by 33 others at most
#define MAX_NODE_NUMBERS_OF_JOB 16  // that are remembered; of what is numbered behind them, nothing is known
#define TLS_SCRATCHES 4         // TLS calls that one CPU is in the middle of, each interrupted by the next
#define MAX_MAPPED_FILES LRU_ENTRIES(4096)
#define MAX_TARGETS 8192         // processes
#ifndef MAX_SERVICES
#define MAX_SERVICES 2048  // in the ledger; 144 bytes each
#endif
#define PROGRESS_SLOTS 16384     // 64 bytes each; a power of two
#define MAX_SLOT_TRIES 8         // for one that no open connection has
#define PROCESS_EVENT_PAGES 32   // 2,900 events between two wake-ups of the probe
#define MAX_IOVECS 128            // pieces of one call among which its last byte is found; a power of two
#define MAX_CAPTURED_PIECES 8     // that are copied; heads were in the first one in all servers measured
#define MAX_CHUNK_STEPS 64            // of one round: a byte of a size line or a piece each
#define MAX_CHUNK_ROUNDS 22  // through one call: 200 chunks and more; a program may be followed by 33 others at most
#define MAX_TAIL_PIECES 3         // before the last one: "size, data, end of chunk" are pieces of their own in Node

// Bytes of one message's beginning that are copied out. Powers of two: the verifier bounds offsets by masks.
#define REQUEST_CAPTURE_BYTES 8192   // most servers refuse heads above 8 KB
#define RESPONSE_CAPTURE_BYTES 2048  // status and framing headers; the body is only counted
#define MAX_HEAD_BYTES 65536  // of a head that has not ended by then; in records of up to REQUEST_CAPTURE_BYTES
#define LATE_CAPTURE_BYTES 2048  // of what a client sends on after its answer: nginx reads it 4 KB at a time
#define PAYLOAD_MASK (REQUEST_CAPTURE_BYTES - 1)

// Goroutines that a request has started are believed to work for it once their function is known that well.
#ifndef GO_START_AGE_NS
#define GO_START_AGE_NS 3000000000ull  // a worker has shown itself by then: it took 140 ms in all that was measured
#endif
#define GO_START_DOUBT_NS 60000000000ull
#define GO_START_REQUESTS 8  // a pool that is started once is started under one request
// Requests that another one is looked for beside; those that wait for long are marked by the next one.
#define GO_NEWEST 8
// Contexts, each made of the next one, between a call and the request that it is made for.
#define GO_CONTEXTS 16

// With OTEL_EBPF_PARENTS=strict a context is believed to handle the request under which it was made once others have
// begun so many responses of their server, one after the other.
#define RESPONDERS_ALIKE 8
#define MAX_RESPONDERS 2048  // servers; 24 bytes each

// Lookups of names.
#define MAX_LOOKUPS 512                       // threads whose last lookup of a name is kept; 440 bytes each
#define MAX_ANSWERS LRU_ENTRIES(2048)         // of those, by address
#define MAX_LOOKUP_AGE_NS 5000000000ull       // from an answer to the connection that it was asked for
#define MAX_LOOKUP_NODES 24                   // of what getaddrinfo returns; each address may come three times
#define LOOKUP_ANSWERS 8                      // addresses of one name that are kept; a power of two
#define LONGEST_ADDRESS 64                    // in characters; a scope may follow behind 39
