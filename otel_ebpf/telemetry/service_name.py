"""What to call a service that does not name itself: a rule for each thing that runs services.

In:   executable, command and argv of a process, raw
Out:  a name, or None where there is only an interpreter to speak of
Owns: nothing

An interpreter never names a service. The rules, first that applies:

| what runs | name | example |
|---|---|---|
| process title `nginx: master process ...` | its first word; gunicorn and puma: what is in brackets | `nginx` |
| gunicorn, uvicorn, hypercorn, granian, daphne, waitress-serve, uwsgi | module rule | `shop.api:app` -> `shop` |
| the same, without an application argument | the server | `gunicorn` |
| `flask --app shop run`, `fastapi run path/shop.py`, `celery -A shop ...` | module or file rule | `shop` |
| `python -m module` | module rule, or that of the server it is | `-m http.server` -> `http.server` |
| `python path/manage.py ...` | the folder of the project | `/srv/shop/manage.py` -> `shop` |
| `python x.py`, `node x.js`, `deno run x.ts`, `ruby x.rb`, `php x.php` ... | file rule | `/srv/shop/pay.py` -> `pay` |
| `node -e`, `python -c`, `python -` | the executable, marked unknown | `unknown_service:python3` |
| `java -jar shop-1.2.jar` | jar without version | `shop` |
| `java ... com.acme.shop.Main` | last word of the class; its package when that is Main or Application | `shop` |
| `dotnet Shop.dll` | the file without its suffix | `Shop` |
| `puma`, `unicorn`, `rackup`, `rails`, `passenger` (also as scripts under ruby) | folder they run in | `shop` |
| `npm start`, `yarn start`: | folder they run in | `shop` |
| any other executable (Go, Rust, C) | its file name | `checkout` |

Module rule (`package.module:object`): the first part of the dotted path that is not general (`app`, `main`, `api`,
`wsgi`, `server`, ...): `shop.api:app` -> `shop`. If all are, the object, unless every framework calls it so (`app`,
`application`, `create_app`, ...): `app:api` -> `api`. Then the folder the process runs in, then the module. A module of
Python's own library is named whole: `http.server`.
File rule: the file without its suffix; if that is one of the general words, its folder; if that is general too (`src`,
`dist`, `bin`, ...), the folder above.
"""

import re
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


GENERAL_WORDS = _words(
    "app main api server wsgi asgi application index src dist build bin lib www web service run start current "
    "release __main__ manage config code workspace tmp home root opt srv var usr cmd out target node_modules "
    "site-packages"
)
HABITUAL_OBJECTS = _words(
    "app application create_app make_app get_app build_app wsgi_app asgi_app get_wsgi_application "
    "get_asgi_application main server"
)
APPLICATION_SERVERS = _words("gunicorn uvicorn hypercorn granian daphne waitress-serve waitress uwsgi")
FOLDER_RUNNERS = _words("puma pumactl unicorn rackup rails passenger thin falcon npm yarn pnpm")
INTERPRETERS = ("python", "pypy", "node", "nodejs", "deno", "bun", "ruby", "php", "perl", "java", "dotnet", "jruby")
# The word after these is no script; an option missing here at worst makes its value the name.
OPTIONS_WITH_VALUE = {
    "python": frozenset(("-W", "-X", "--check-hash-based-pycs")),
    "pypy": frozenset(("-W", "-X")),
    "node": frozenset(("-r", "--require", "--import", "--loader", "--experimental-loader", "-C", "--conditions")),
    "ruby": frozenset(("-I", "-r", "-C", "-E")),
    "php": frozenset(("-d", "-c", "-S", "-t", "-z")),
    "perl": frozenset(("-I",)),
    "java": frozenset(("-cp", "-classpath", "--class-path", "-p", "--module-path", "--add-modules")),
}
CODE_ON_COMMAND_LINE = _words("-c -e -p -pe --eval --print -")
_TITLE = re.compile(r"([A-Za-z][\w.+-]*)(?:: | [\d.]+ \()")
_APPLICATION = re.compile(r"[A-Za-z_][\w./-]*:[A-Za-z_][\w.]*(\(.*\))?")
_VERSION = re.compile(r"[-_.]v?\d+(\.\d+)*([-.](SNAPSHOT|RELEASE|FINAL|all|jar-with-dependencies))*$", re.IGNORECASE)
_INTERPRETER = re.compile(rf"({'|'.join(INTERPRETERS)})[\d.]*(-dbg|t|d)?")


class Command(NamedTuple):
    """A process as text, cut to what names it."""

    executable: str  # path, "" when not known
    argv: Sequence[str]
    working_directory: str
    comm: str


def name_service(command: Command) -> str | None:
    """The name by the table above; None when only an interpreter is known."""
    argv = [word for word in command.argv if word]
    title = _TITLE.match(" ".join(argv))
    if title is not None:
        return _named_by_title(title[1], " ".join(argv), command)
    executable = base_name(command.executable) or (base_name(argv[0]) if argv else "") or command.comm
    kind = interpreter_kind(executable)
    if kind is None:
        if argv and base_name(argv[0]) in APPLICATION_SERVERS | FOLDER_RUNNERS:
            executable = base_name(argv[0])
        return _tool_name(executable, argv[1:], command) or executable or None
    return _interpreted(kind, argv[1:], command)


def interpreter_kind(executable: str) -> str | None:
    """`python3.11` -> `python`; None for what is no interpreter."""
    match = _INTERPRETER.fullmatch(executable)
    return match[1] if match else None


def base_name(path: str) -> str:
    """The last part of a path; a replaced file's " (deleted)" is no part of it."""
    return path.removesuffix(" (deleted)").rstrip("/").rpartition("/")[2]


def _named_by_title(word: str, title: str, command: Command) -> str | None:
    """`gunicorn: master [shop.api:app]` says more than `gunicorn`; puma writes `[folder]` last."""
    inside = re.search(r"\[([^\[\]]+)\]\s*$", title)
    if inside and word == "gunicorn":
        return module_name(inside[1], command.working_directory)
    if inside and word == "puma":
        return inside[1]
    return word


def _interpreted(kind: str, words: list[str], command: Command) -> str | None:
    if kind == "java":
        return _java_name(words)
    with_value = OPTIONS_WITH_VALUE.get("node" if kind == "nodejs" else kind, frozenset())
    index = 0
    while index < len(words):
        word = words[index]
        if word in CODE_ON_COMMAND_LINE and not (kind == "node" and word == "-"):
            return None
        if kind in ("python", "pypy") and word.startswith("-m"):
            module = word[2:] or (words[index + 1] if index + 1 < len(words) else "")
            rest = words[index + (1 if word[2:] else 2) :]
            return _tool_name(module, rest, command) or module_name(module, command.working_directory)
        if not word.startswith("-"):
            break
        index += 2 if word in with_value else 1
    if kind in ("deno", "bun") and index < len(words) and words[index] in ("run", "serve", "start"):
        return _interpreted("script", words[index + 1 :], command)
    if index >= len(words):
        return None
    script, rest = words[index], words[index + 1 :]
    return _tool_name(base_name(script), rest, command) or _script_name(script, command.working_directory)


def _script_name(script: str, folder: str) -> str | None:
    if not script.startswith("/"):
        script = f"{folder}/{script.removeprefix('./')}"
    if base_name(script) == "manage.py":
        return base_name(script.rpartition("/")[0]) or None
    return file_name(script)


def _tool_name(tool: str, words: list[str], command: Command) -> str | None:
    """The name behind a tool that runs other people's applications; None when `tool` is not one."""
    tool = tool.removesuffix(".js").removesuffix("-cli")
    if tool in APPLICATION_SERVERS:
        for word in words:
            if _APPLICATION.fullmatch(word):
                return module_name(word, command.working_directory)
        return tool
    if tool in ("flask", "celery"):
        for before, after in pairwise(words):
            if before in ("--app", "-A"):
                return module_name(after.removesuffix(".py"), command.working_directory)
        return base_name(command.working_directory) or tool
    if tool == "fastapi":
        scripts = [word for word in words if word.endswith(".py")]
        return _script_name(scripts[0], command.working_directory) if scripts else base_name(command.working_directory)
    if tool in FOLDER_RUNNERS:
        return base_name(command.working_directory) or tool
    return None


def _java_name(words: list[str]) -> str | None:
    index = 0
    while index < len(words):
        word = words[index]
        if word == "-jar":
            return jar_name(words[index + 1]) if index + 1 < len(words) else None
        if word in ("-m", "--module") and index + 1 < len(words):
            word = words[index + 1].rpartition("/")[2]
        elif word.startswith("-"):
            index += 2 if word in OPTIONS_WITH_VALUE["java"] else 1
            continue
        parts = word.split(".")
        if parts[-1].lower() in GENERAL_WORDS and len(parts) > 1:
            return parts[-2]
        return parts[-1] or None
    return None


def jar_name(path: str) -> str | None:
    """`/srv/shop-1.2-SNAPSHOT.jar` -> `shop`."""
    stem = base_name(path).removesuffix(".jar").removesuffix(".war")
    return _VERSION.sub("", stem) or stem or None


def module_name(application: str, folder: str) -> str | None:
    """The module rule; `application` is `package.module:object` or `package.module`."""
    module, _, found = application.partition(":")
    if "/" in module:
        return file_name(module if module.startswith("/") else f"{folder}/{module}")
    parts = [part for part in module.split(".") if part]
    if not found and parts and parts[0] in sys.stdlib_module_names:
        return module
    for part in parts:
        if part.lower() not in GENERAL_WORDS:
            return part
    object_name = found.partition("(")[0].partition(".")[0]
    if object_name and object_name.lower() not in HABITUAL_OBJECTS:
        return object_name
    home = base_name(folder)
    return home if home and home.lower() not in GENERAL_WORDS else module or None


def file_name(path: str) -> str | None:
    """The file rule, for an absolute path."""
    parts = [part for part in path.split("/") if part and part != "."]
    if not parts:
        return None
    stem = re.sub(r"\.(py|pyc|pyz|js|mjs|cjs|ts|mts|rb|php|pl|dll|exe|ru)$", "", parts[-1])
    for name in (stem, *reversed(parts[:-1])):
        if name.lower() not in GENERAL_WORDS:
            return name
    return stem
