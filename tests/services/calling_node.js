// A service whose requests cause others, as in calling_app.py: GET /in/STYLE/NAME asks the service at CALLS_TO for
// /out/STYLE/NAME/N, in as many ways as Node has of calling later. `node calling_node.js PORT`; by TLS at both sides where
// CERTIFICATE and KEY say so; with which client and connections, calling_node_clients.js says.
// STORAGE: with AsyncLocalStorage; CLUSTER: so many processes; WORKERS: a thread for each of these ports. With --expose-gc it
// collects its garbage all the time.
'use strict';
const { AsyncLocalStorage, AsyncResource } = require('async_hooks');
const cluster = require('cluster');
const { EventEmitter } = require('events');
const fs = require('fs');
const { Readable } = require('stream');
const { Worker, isMainThread, workerData } = require('worker_threads');
const { ask, call, fetched, library, options } = require('./calling_node_clients.js');

const { CLUSTER, STORAGE, WORKERS } = process.env;
process.removeAllListeners('warning');
if (global.gc) setInterval(() => global.gc({ type: Math.random() < 0.1 ? 'major' : 'minor' }), 10);

const pause = () => Math.random() * 20;
const sleep = () => new Promise((resolve) => setTimeout(resolve, pause()));

// A pool whose users are called when another one's answer has come, with and without Node being told of it.
const makePool = (wrap) => {
  const waiting = [];
  let free = 3;
  const release = () => {
    free += 1;
    const next = waiting.shift();
    if (next) { free -= 1; next(release); }
  };
  return (use) => {
    if (free > 0) { free -= 1; use(release); } else waiting.push(wrap(use));
  };
};
const pool = makePool((use) => use);
const pool_told = makePool((use) => {
  const resource = new AsyncResource('pool');
  return (release) => resource.runInAsyncScope(use, null, release);
});
const pooled = (get) => (out, done) => {
  get((release) => {
    setTimeout(() => call(out(0), () => { release(); done(); }), pause());
  });
};

// What the first request starts, and all use.
const jobs = [];
let shared;
const share = async () => {
  await sleep();
  await fs.promises.readFile(__filename);
  await sleep();
};
let started = false;
let wake;
const worker = async () => {
  for (;;) {
    while (!jobs.length) await new Promise((resolve) => { wake = resolve; });
    const [path, done] = jobs.shift();
    await sleep();
    await ask(path);
    done();
  }
};

const styles = {
  direct: (out, done) => {
    let left = 2;
    for (const number of [0, 1]) call(out(number), () => { left -= 1; if (!left) done(); });
  },
  timer: (out, done) => setTimeout(() => call(out(0), done), pause()),
  timers: (out, done) => setTimeout(() => setTimeout(() => call(out(0), done), pause()), pause()),
  tick: (out, done) => process.nextTick(() => setImmediate(() => call(out(0), done))),
  chained: (out, done) => call(out(0), () => setTimeout(() => call(out(1), done), pause())),
  emitter: (out, done) => {
    const emitter = new EventEmitter().on('go', () => call(out(0), done));
    setTimeout(() => emitter.emit('go'), pause());
  },
  stream: (out, done) => {
    call(out(0), done, Readable.from(['a', 'b', 'c']));
  },
  file: (out, done) => fs.readFile(__filename, () => call(out(0), done)),
  microtask: (out, done) => queueMicrotask(() => call(out(0), done)),
  ended: (out, done, request) => request.on('end', () => call(out(0), done)).resume(),
  await: async (out, done) => {
    await sleep();
    await ask(out(0));
    await sleep();
    await ask(out(1));
    done();
  },
  promise: (out, done) => sleep().then(() => ask(out(0))).then(sleep).then(() => ask(out(1))).then(done),
  parallel: async (out, done) => {
    const one = async (number) => { await sleep(); await ask(out(number)); };
    await sleep();
    await Promise.all([0, 1, 2].map(one));
    done();
  },
  nested: async (out, done) => {
    const inner = async (number) => { await null; await sleep(); return ask(out(number)); };
    const outer = async () => { await inner(0); try { await Promise.reject(new Error()); } catch { await sleep(); } };
    await outer();
    await inner(1);
    done();
  },
  caught: async (out, done) => {
    const fail = async () => { await sleep(); throw new Error(); };
    for (const number of [0, 1]) try { await fail(); } catch { await ask(out(number)); }
    done();
  },
  // What waits for promises that nothing ever becomes of.
  forgotten: async (out, done) => {
    for (let left = 150; left; left -= 1) new Promise(() => {}).then(done);
    await sleep();
    await ask(out(0));
    done();
  },
  events: async (out, done) => {
    const emitter = new EventEmitter();
    setTimeout(() => emitter.emit('go'), pause());
    await EventEmitter.once(emitter, 'go');
    await ask(out(0));
    await fs.promises.readFile(__filename);
    await ask(out(1));
    done();
  },
  streamed: async (out, done) => {
    for await (const number of Readable.from([0, 1])) { await sleep(); await ask(out(number)); }
    done();
  },
  fetch: async (out, done) => {
    await sleep();
    await fetched(out(0));
    await sleep();
    await fetched(out(1));
    done();
  },
  'fetch-all': async (out, done) => {
    await sleep();
    await Promise.all([0, 1, 2].map((number) => fetched(out(number))));
    done();
  },
  pool: pooled(pool),
  'pool-told': pooled(pool_told),
  worker: (out, done) => {
    jobs.push([out(0), done]);
    if (!started) { started = true; worker(); }
    if (wake) { wake(); wake = undefined; }
  },
  // One that all wait for, and each goes on behind it.
  shared: (out, done) => {
    if (!shared) shared = share().finally(() => { shared = undefined; });
    shared.then(() => call(out(0), done));
  },
  late: (out, done) => {
    done();
    setTimeout(() => call(out(0), () => {}), pause());
  },
};
const storage = STORAGE ? new AsyncLocalStorage() : { run: (_, work) => work() };

const serve = (port) => {
  const server = library.createServer(options, (request, response) => {
    const [, , style, name] = request.url.split('/');
    const out = (number) => `/out/${style}/${name}/${number}`;
    storage.run(name, () => styles[style](out, () => response.end('ok'), request));
  });
  server.keepAliveTimeout = 75_000;
  server.listen(port, '127.0.0.1');
  let number = 0;
  const noise = () => {
    call(`/noise/${process.pid}/${number}`, () => setTimeout(noise, 20));
    number += 1;
  };
  setTimeout(noise, 20);
  const noise_awaited = async () => {
    for (;;) {
      await new Promise((resolve) => setTimeout(resolve, 20));
      await ask(`/noise/awaited-${process.pid}/${number}`);
      number += 1;
    }
  };
  noise_awaited();
};

const port = isMainThread ? Number(process.argv[2]) : workerData;
if (CLUSTER && cluster.isPrimary) for (let made = 0; made < Number(CLUSTER); made += 1) cluster.fork();
else serve(port);
if (WORKERS && isMainThread) for (const other of WORKERS.split(',')) new Worker(__filename, { workerData: Number(other) });
