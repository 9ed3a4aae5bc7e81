"""Which folder may import which, read from the source: export -> telemetry -> exchanges -> records <- probe."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "otel_ebpf"
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))

# What each folder may import of the package, besides itself.
FOR_ALL = {"errors", "config", "setting_values", "otlp_settings", "__init__"}
ALLOWED = {
    "records": FOR_ALL,
    "exchanges": FOR_ALL | {"records"},
    "telemetry": FOR_ALL | {"records", "exchanges"},
    "export": FOR_ALL | {"records", "exchanges", "telemetry", "status_socket"},
    "probe": FOR_ALL | {"records"},
    "errors": set(),
    "status_socket": {"errors"},
    "status_text": set(),
    "setting_values": set(),
    "proxies": set(),
    "config": {"errors", "otlp_settings", "proxies", "setting_values", "__init__"},
    "otlp_settings": {"proxies"},
}
# Where they are put together; nothing imports these but one another.
ROOTS = {"cli", "supervisor", "__main__", "__init__"}

STANDARD_LIBRARY_ONLY = (
    "records",
    "probe",
    "errors",
    "config",
    "otlp_settings",
    "proxies",
    "setting_values",
    "status_socket",
    "status_text",
    "cli",
    "supervisor",
)
# By file, what a child of its own imports: the distribution's interpreter that compiles, the inspector without rights.
OF_CHILDREN = {
    "cheap_places.py": {"elftools", "iced_x86"},
    "compile_child.py": {"bcc"},
    "elf_image.py": {"elftools", "iced_x86"},
    "function_finder.py": {"elftools", "iced_x86"},
    "gnutls_library.py": {"iced_x86"},
    "go_image.py": {"elftools", "iced_x86"},
    "go_library.py": {"iced_x86"},
    "go_program.py": {"iced_x86"},
    "greenlet_library.py": {"elftools"},
    "node_program.py": {"elftools", "iced_x86"},
    "node_promises.py": {"iced_x86"},
    "python_library.py": {"elftools"},
    "queue_library.py": {"elftools", "iced_x86"},
    "tls_library.py": {"elftools", "iced_x86"},
}

# What pure code cannot do without reaching out of the process: no clock, socket, /proc or environment.
IMPURE_MODULES = {
    "time",
    "socket",
    "os",
    "pathlib",
    "subprocess",
    "select",
    "threading",
    "asyncio",
    "random",
    "secrets",
}
HARMLESS = {"socket.AF_INET", "socket.AF_INET6", "socket.inet_ntop", "socket.inet_pton"}  # numbers and text
PURE = ("exchanges", "telemetry")


def part_of(path: Path) -> str:
    """The folder of the package, or the module's name at its top."""
    inside = path.relative_to(PACKAGE)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


def imports_of(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(dotted name, line) of everything imported anywhere, functions included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: relative import"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def imported_parts(path: Path) -> Iterator[tuple[str, int]]:
    for name, line in imports_of(ast.parse(path.read_text())):
        first, *rest = name.split(".")
        if first == "otel_ebpf":
            is_of_package = bool(rest) and ((PACKAGE / rest[0]).is_dir() or (PACKAGE / f"{rest[0]}.py").exists())
            yield (rest[0] if is_of_package else "__init__"), line


def ids(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_a_module_imports_only_what_its_folder_may(path: Path) -> None:
    part = part_of(path)
    if part in ROOTS:
        return
    may = ALLOWED[part] | {part}
    wrong = [f"{ids(path)}:{line} imports {name}" for name, line in imported_parts(path) if name not in may]

    assert [] == wrong


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_the_privileged_side_and_the_contract_use_the_standard_library_alone(path: Path) -> None:
    """Every dependency here would be code that runs as root."""
    if part_of(path) not in STANDARD_LIBRARY_ONLY:
        return
    own = sys.stdlib_module_names | {"otel_ebpf"} | OF_CHILDREN.get(path.name, set())
    wrong = [name for name, _ in imports_of(ast.parse(path.read_text())) if name.split(".")[0] not in own]

    assert [] == wrong


@pytest.mark.parametrize("path", [path for path in MODULES if part_of(path) in PURE], ids=ids)
def test_pure_code_cannot_reach_out_of_the_process(path: Path) -> None:
    """No clock, socket, /proc or environment: a recording gives the same result anywhere."""
    tree = ast.parse(path.read_text())
    imported = [(name, line) for name, line in imports_of(tree) if name not in HARMLESS]
    wrong = [f"line {line}: {name}" for name, line in imported if name.split(".")[0] in IMPURE_MODULES]
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    wrong += [f"line {node.lineno}: open()" for node in calls if getattr(node.func, "id", "") == "open"]

    assert [] == wrong


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_the_environment_is_read_by_the_command_line_alone(path: Path) -> None:
    """Everything else gets Settings: what the agent does is told by one table."""
    if part_of(path) == "cli":
        return
    tree = ast.parse(path.read_text())
    names = {"environ", "environb", "getenv", "getenvb"}
    wrong = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os"
        if node.attr in names
    ]
    wrong += [line for name, line in imports_of(tree) if name in {f"os.{name}" for name in names}]

    assert [] == wrong


def test_only_the_command_line_makes_settings_of_the_environment() -> None:
    callers = {path.name for path in MODULES if "Settings.from_environ(" in path.read_text()}

    assert {"cli.py"} == callers


def test_the_probe_itself_imports_nothing_that_its_children_need() -> None:
    """They come and go; what they have loaded must not stay."""
    script = "import sys, otel_ebpf.supervisor; print(sorted({'elftools', 'iced_x86', 'bcc'} & set(sys.modules)))"

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert "[]\n" == done.stdout
