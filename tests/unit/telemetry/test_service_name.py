"""The table of rules in service_name.py, case by case."""

import pytest

from otel_ebpf.telemetry.service_name import Command, name_service

CASES = [
    # executable, command line, name
    ("/usr/bin/python3.11", "python3 /usr/bin/gunicorn -w 4 app:api", "api"),
    ("/usr/bin/python3.11", "python3 /v/bin/gunicorn --bind :80 shop.api:app", "shop"),
    ("/usr/bin/python3.11", "python3 /v/bin/gunicorn main:app", "folder"),
    ("/usr/bin/python3.11", "python3 /v/bin/gunicorn checkout.wsgi:application", "checkout"),
    ("/usr/bin/python3.11", "python3 /v/bin/gunicorn shop:create_app()", "shop"),
    ("/usr/bin/python3.11", "python3 /v/bin/gunicorn", "gunicorn"),
    ("/usr/bin/python3.11", "gunicorn: master [shop.api:app]", "shop"),
    ("/usr/bin/python3.11", "gunicorn: worker [shop.api:app]", "shop"),
    ("/usr/bin/python3.11", "python3 -m uvicorn cart.asgi:app --port 1", "cart"),
    ("/usr/bin/python3.11", "/v/bin/python /v/bin/uvicorn app.main:app", "folder"),
    ("/usr/bin/python3.11", "/v/bin/python /v/bin/hypercorn cart:app", "cart"),
    ("/usr/bin/python3.11", "/v/bin/python /v/bin/daphne cart.asgi:application", "cart"),
    ("/v/bin/granian", "granian --interface asgi cart:app", "cart"),
    ("/usr/bin/uwsgi-core", "uwsgi --http :80", "uwsgi"),
    ("/usr/bin/python3.11", "python3 -m http.server 80", "http.server"),
    ("/usr/bin/python3.11", "python3 -u -X dev -m http.server", "http.server"),
    ("/usr/bin/python3.11", "python3 -mshop.api", "shop"),
    ("/usr/bin/python3.11", "python3 /srv/pay/manage.py runserver 80", "pay"),
    ("/usr/bin/python3.11", "python3 manage.py runserver", "folder"),
    ("/usr/bin/python3.11", "python3 -W error pay.py", "pay"),
    ("/usr/bin/python3.11", "python3 /srv/shop/src/main.py", "shop"),
    ("/usr/bin/python3.11", "python3 -c import_something", None),
    ("/usr/bin/python3.11", "python3 -", None),
    ("/usr/bin/python3.11", "python3", None),
    ("/usr/bin/python3.11", "/v/bin/python /v/bin/flask --app hello run", "hello"),
    ("/usr/bin/python3.11", "/v/bin/python /v/bin/flask run", "folder"),
    ("/usr/bin/python3.11", "/v/bin/python /v/bin/fastapi run apps/cart.py", "cart"),
    ("/usr/bin/python3.11", "/v/bin/python /v/bin/celery -A jobs worker", "jobs"),
    ("/opt/pypy/bin/pypy3", "pypy3 pay.py", "pay"),
    ("/usr/bin/node", "node /srv/shop/server.js", "shop"),
    ("/usr/bin/node", "node /srv/shop/dist/index.js", "shop"),
    ("/usr/bin/node", "node --require ./setup.js cart.mjs", "cart"),
    ("/usr/bin/node", "node -e code", None),
    ("/usr/bin/node", "npm start", "folder"),
    ("/usr/bin/deno", "deno run -A pay.ts", "pay"),
    ("/usr/lib/jvm/17/bin/java", "java -Xmx1g -jar /opt/shop.jar --port=80", "shop"),
    ("/usr/lib/jvm/17/bin/java", "java -jar shop-1.2.3-SNAPSHOT.jar", "shop"),
    ("/usr/lib/jvm/17/bin/java", "java -cp a.jar:b.jar com.acme.shop.Main", "shop"),
    ("/usr/lib/jvm/17/bin/java", "java -Dx=y com.acme.CartService", "CartService"),
    ("/usr/lib/jvm/17/bin/java", "java", None),
    ("/usr/share/dotnet/dotnet", "dotnet /srv/Shop.dll", "Shop"),
    ("/usr/sbin/nginx", "nginx: master process /usr/sbin/nginx -g daemon off;", "nginx"),
    ("/usr/sbin/nginx", "nginx: worker process", "nginx"),
    ("/usr/sbin/nginx", "/usr/sbin/nginx", "nginx"),
    ("/usr/bin/ruby3.1", "puma 6.4.0 (tcp://0.0.0.0:3000) [store]", "store"),
    ("/usr/bin/ruby3.1", "puma: cluster worker 0: 12 [store]", "store"),
    ("/usr/bin/ruby3.1", "ruby bin/rails server", "folder"),
    ("/usr/bin/ruby3.1", "ruby /srv/pay.rb", "pay"),
    ("/usr/bin/php8.2", "php -S 0.0.0.0:80 router.php", "router"),
    ("/srv/bin/checkout", "./checkout -port 80", "checkout"),
    ("/srv/bin/checkout (deleted)", "./checkout", "checkout"),
    ("", "", "fallback"),
]


@pytest.mark.parametrize(("executable", "line", "name"), CASES)
def test_service_is_named_by_what_it_runs(executable: str, line: str, name: str | None):
    """An interpreter never names the service."""
    argv = [line] if ": " in line or "(tcp" in line else line.split(" ")
    command = Command(executable=executable, argv=argv, working_directory="/srv/folder", comm="fallback")

    assert name == name_service(command)


def test_general_folder_leaves_the_module():
    """Nothing better is known of `main:app` in `/`."""
    command = Command("/usr/bin/python3", ["python3", "/v/bin/gunicorn", "main:app"], "/", "gunicorn")

    assert "main" == name_service(command)
