// How calling_node.js asks the service at CALLS_TO: by CLIENT `http` (Node's own), `axios`, `fetch` (Node's own),
// `undici-fetch`, `undici-request`, or `undici-pool` of six connections; of the others' packages, NODE_PATH says where they
// are. AGENT, of `http` and `axios`: `kept` connections (Node's own), `few` for all, or `fresh` ones.
'use strict';
const fs = require('fs');
const http = require('http');
const https = require('https');

const { AGENT, CALLS_TO, CERTIFICATE, CLIENT = 'http', HOST = '127.0.0.1', KEY } = process.env;
const library = CERTIFICATE ? https : http;
const options = CERTIFICATE ? { cert: fs.readFileSync(CERTIFICATE), key: fs.readFileSync(KEY) } : {};
const origin = `${CERTIFICATE ? 'https' : 'http'}://${HOST}:${CALLS_TO}`;
const agent = new library.Agent({
  keepAlive: AGENT !== 'fresh',
  maxSockets: AGENT === 'few' ? 4 : Infinity,
  rejectUnauthorized: false,
});
if (CERTIFICATE) process.env.NODE_TLS_REJECT_UNAUTHORIZED = '0'; // of fetch
const LENGTH = { 'Content-Length': 3 }; // of all bodies

const fetched = async (path) => (await fetch(origin + path)).text();

// Called back, as Node's own client does it.
const callByHttp = (path, done, body) => {
  const request = library.request({ host: HOST, port: Number(CALLS_TO), path, agent, ...options }, (response) => {
    if (response.statusCode !== 200) throw new Error(`${path}: ${response.statusCode}`);
    response.on('end', done).resume();
  });
  request.on('error', (error) => { throw error; });
  if (!body) return request.end();
  request.setHeader('Content-Length', LENGTH['Content-Length']);
  return body.pipe(request);
};

// Each returns a promise.
const promised = {
  http: () => (path) => new Promise((resolve) => callByHttp(path, resolve)),
  axios: () => {
    const axios = require('axios');
    const settings = { httpAgent: agent, httpsAgent: agent, proxy: false };
    return (path, body) => axios.get(origin + path, body ? { ...settings, data: body, headers: LENGTH } : settings);
  },
  fetch: () => fetched,
  'undici-fetch': () => {
    const undici = require('undici');
    const dispatcher = new undici.Agent({ connect: { rejectUnauthorized: false } });
    return async (path) => (await undici.fetch(origin + path, { dispatcher })).text();
  },
  'undici-request': () => {
    const undici = require('undici');
    const dispatcher = new undici.Agent({ connect: { rejectUnauthorized: false } });
    return async (path, body) => {
      const asked = body ? { method: 'GET', body, headers: LENGTH, dispatcher } : { dispatcher };
      return (await undici.request(origin + path, asked)).body.text();
    };
  },
  'undici-pool': () => {
    const undici = require('undici');
    const pool = new undici.Pool(origin, { connections: 6, connect: { rejectUnauthorized: false } });
    return async (path) => (await pool.request({ path, method: 'GET' })).body.text();
  },
};
const BODIES = ['axios', 'undici-request'];
const ask = promised[CLIENT]();

const callByPromise = (path, done, body) => {
  if (!body || BODIES.includes(CLIENT)) ask(path, body).then(done);
  else body.on('end', () => ask(path).then(done)).resume();
};

module.exports = { ask, call: CLIENT === 'http' ? callByHttp : callByPromise, fetched, library, options };
