"""A service that calls others while it serves: `python -m tests.services.chained PORT [URL ...]`.

In:   GET requests; the services behind it
Out:  200, once each of those has answered the same path
Owns: nothing

One thread for each connection, the standard library's server and client, and nothing that would tell the other services of a
trace.
"""

import argparse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def handler_for(urls: list[str]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answers = []
            for url in urls:
                with urllib.request.urlopen(f"{url}{self.path}", timeout=60) as response:
                    answers.append(response.read())
            body = b"".join(answers) or b"end"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """The test knows what it asked for."""

    return Handler


class Server(ThreadingHTTPServer):
    request_queue_size = 128


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("urls", nargs="*")
    arguments = parser.parse_args()
    Server(("127.0.0.1", arguments.port), handler_for(arguments.urls)).serve_forever()
