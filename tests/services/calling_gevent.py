"""The service of calling_app.py by gevent's own server: `python calling_gevent.py PORT`."""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import sys  # noqa: E402 - only now what is imported is gevent's

from gevent.pywsgi import WSGIServer  # noqa: E402

from tests.services.calling_app import start_noise, wsgi  # noqa: E402
from tests.services.calling_clients import server_tls  # noqa: E402

if __name__ == "__main__":
    start_noise()
    tls = server_tls()
    more = {} if tls is None else {"ssl_context": tls}
    WSGIServer(("127.0.0.1", int(sys.argv[1])), wsgi, log=None, **more).serve_forever()
