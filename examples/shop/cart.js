// What each visitor is going to buy: an ordinary Node service. It asks the catalog for prices.
//   node cart.js PORT CATALOG_PORT
const http = require("node:http");

const [port, catalogPort] = process.argv.slice(2).map(Number);
const agent = new http.Agent({ keepAlive: true });
const carts = new Map();

function priceOf(item) {
  return new Promise((resolve, reject) => {
    http
      .get({ host: "127.0.0.1", port: catalogPort, path: `/items/${item}`, agent }, (response) => {
        let text = "";
        response.on("data", (piece) => (text += piece));
        response.on("end", () => resolve(response.statusCode === 200 ? JSON.parse(text).price : null));
      })
      .on("error", reject);
  });
}

function answer(response, status, document) {
  const body = JSON.stringify(document);
  response.writeHead(status, { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(body) });
  response.end(body);
}

async function put(request, response, visitor) {
  let text = "";
  for await (const piece of request) text += piece;
  const { item } = JSON.parse(text);
  const price = await priceOf(item);
  if (price === null) return answer(response, 422, { error: "no such item" });
  const cart = carts.get(visitor) ?? [];
  carts.set(visitor, [...cart, { item, price }].slice(-5));
  return answer(response, 201, { items: cart.length + 1 });
}

http
  .createServer((request, response) => {
    const [, first, visitor] = request.url.split("/");
    if (first !== "cart" || !visitor) return answer(response, 404, { error: "not here" });
    if (request.method === "GET") return answer(response, 200, carts.get(visitor) ?? []);
    if (request.method === "DELETE") {
      carts.delete(visitor);
      response.writeHead(204);
      return response.end();
    }
    return put(request, response, visitor).catch((error) => answer(response, 502, { error: error.message }));
  })
  .listen(port, "127.0.0.1");
