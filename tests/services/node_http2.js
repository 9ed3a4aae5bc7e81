// HTTP/2 without TLS: `node node_http2.js serve PORT`, or `ask PORT`, which prints the status of one request.
'use strict';
const http2 = require('http2');
const [, , what, port] = process.argv;

if (what === 'serve') {
  http2.createServer((request, response) => response.end('ok')).listen(Number(port), '127.0.0.1');
} else {
  const session = http2.connect(`http://127.0.0.1:${port}`);
  session.request({ ':path': '/' }).on('response', (headers) => {
    console.log(headers[':status']);
    session.close();
  }).resume();
}
