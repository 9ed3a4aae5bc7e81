// A Node http client: `node node_client.js PLAN`. Prints "ready", waits for a line, sends, prints the results.
'use strict';
const fs = require('fs');
const library = { http: require('http'), https: require('https') };

const plan = JSON.parse(fs.readFileSync(process.argv[2]));
const http = library[plan.scheme];
const tls = plan.authority ? { ca: fs.readFileSync(plan.authority), maxVersion: plan.tls_version || undefined } : {};
const agent = new http.Agent({ keepAlive: plan.keep_alive, maxSockets: 1, ...tls });

const send = (call) => new Promise((resolve, reject) => {
  const result = {
    id: call.id, method: call.method, target: call.target, request_body_bytes: call.request_body_bytes,
    start_unix_ns: Date.now() * 1e6, start_monotonic_ns: Number(process.hrtime.bigint()),
  };
  const headers = { ...call.headers };
  if (!call.request_chunked && call.request_body_bytes > 0) headers['Content-Length'] = call.request_body_bytes;
  const where = plan.unix_socket ? { socketPath: plan.unix_socket } : { host: plan.host, port: plan.port };
  const request = http.request({ ...where, method: call.method, path: call.target, headers, agent }, (response) => {
    let size = 0;
    response.on('data', (piece) => { size += piece.length; });
    response.on('end', () => {
      result.end_monotonic_ns = Number(process.hrtime.bigint());
      result.status = response.statusCode;
      result.response_body_bytes = size;
      const received = response.headers['x-received-bytes'];
      result.received_bytes = received === undefined ? null : Number(received);
      resolve(result);
    });
  });
  request.on('error', reject);
  if (call.request_body_bytes > 0) request.write(Buffer.alloc(call.request_body_bytes, 'y'));
  request.end();
});

process.stdout.write('ready\n');
process.stdin.once('data', async () => {
  const results = [];
  for (const call of plan.calls) results.push(await send(call));
  process.stdout.write(JSON.stringify(results) + '\n', () => process.exit(0));
});
