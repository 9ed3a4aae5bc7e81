// A Node http or https server: `node node_service.js PORT [CERTIFICATE KEY]`. Reads from the target what to answer, as answers.py does.
// At SIGTERM it writes how many requests it has answered, and ends.
'use strict';
const fs = require('fs');
const http = require('http');
const https = require('https');

const answerFor = (target) => {
  const words = target.split('?')[0].split('/').slice(2);
  const said = { status: '200', size: '0', framing: 'length', delay: '0' };
  for (let i = 0; i + 1 < words.length; i += 2) said[words[i]] = words[i + 1];
  return said;
};

// A timer counts from when the loop last looked at the clock: on a busy host it ends before its time.
const atLeast = (milliseconds, act) => {
  const end = performance.now() + milliseconds;
  const look = () => {
    const left = end - performance.now();
    if (left > 0) setTimeout(look, Math.ceil(left));
    else act();
  };
  setTimeout(look, milliseconds);
};

let served = 0;
const [certificate, key] = process.argv.slice(3).map((file) => fs.readFileSync(file));
const [library, options] = key ? [https, { cert: certificate, key }] : [http, {}];
const server = library.createServer(options, (request, response) => {
  let received = 0;
  request.on('data', (piece) => { received += piece.length; });
  request.on('end', () => {
    const said = answerFor(request.url);
    const status = Number(said.status);
    const size = Number(said.size);
    const hasBody = status !== 204 && status !== 304;
    const headers = { 'X-Received-Bytes': received };
    if (hasBody && said.framing !== 'chunked') headers['Content-Length'] = size;
    atLeast(Number(said.delay), () => {
      response.writeHead(status, headers);
      if (hasBody && request.method !== 'HEAD') {
        const length = said.framing === 'chunked' ? Math.max(1, Math.floor(size / 4)) : size;
        for (let at = 0; at < size; at += length) response.write(Buffer.alloc(Math.min(length, size - at), 'x'));
      }
      response.end();
      served += 1;
    });
  });
});
server.keepAliveTimeout = 75_000; // of 5 s by default, which a client may be held up for between two requests
server.listen(Number(process.argv[2]), '127.0.0.1');
process.on('SIGTERM', () => {
  fs.writeSync(1, `served ${served}\n`);
  process.exit(0);
});
