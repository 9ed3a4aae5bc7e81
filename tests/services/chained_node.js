// chained.py for Node: `node chained_node.js PORT [URL ...]`.
'use strict';
const http = require('http');

const ask = (url) => new Promise((resolve, reject) => {
  http.get(url, (answer) => {
    answer.resume();
    answer.on('end', resolve);
  }).on('error', reject);
});

const [port, ...urls] = process.argv.slice(2);
http.createServer(async (request, response) => {
  for (const url of urls) await ask(url + request.url);
  response.end('end');
}).listen(Number(port), '127.0.0.1');
