"""The habits: sizes, banned constructs, names, one place for outgoing HTTP."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "purvey"
MODULES = sorted(SOURCE.rglob("*.py"))
MAX_MODULE_LINES = 450
MAX_FUNCTION_LINES = 60
MAX_PACKAGE_MODULES = 21

BANNED_CALLS = {"eval", "exec", "compile", "__import__"}
BANNED_IMPORTS = {"pickle", "marshal", "dill", "joblib", "shelve", "cloudpickle"}
BANNED_ATTRIBUTES = {
    ("torch", "load"),
    ("yaml", "load"),
    ("tempfile", "mktemp"),
    ("jinja2", "Environment"),
}
BANNED_KEYWORDS = {"allow_pickle", "trust_remote_code", "shell"}
HTTP_CLIENTS = {
    *("httpx", "httpx2", "httpcore", "httpcore2", "requests", "aiohttp", "urllib3", "websockets"),
    *("http.client", "urllib.request", "ftplib", "smtplib", "telnetlib", "xmlrpc.client"),
    *("imaplib", "poplib", "nntplib", "fsspec", "boto3", "huggingface_hub"),
}
USERS_SIDE = "client/"
"""The Python client, which the command line speaks through: it runs where its user is."""
WAYS_OUT = {
    *("create_connection", "open_connection", "open_unix_connection", "create_datagram_endpoint"),
    *("create_unix_connection", "sock_connect", "connect_ex", "sendto", "urlopen", "urlretrieve"),
    *("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr", "getnameinfo"),
}
SOCKETS = {
    "app/application.py": set(),  # holds the listening socket
    "app/http_server.py": {"getaddrinfo"},  # of the address to listen on
    "cli/showcase/home.py": set(),  # finds a free port
    "ipc/child.py": {"open_unix_connection"},  # over a pair that exists already
    "ipc/disposable.py": set(),  # a pair
    "ipc/link.py": set(),  # the other end of that pair
    "network/connections.py": {"create_connection"},  # to servers of the settings alone
    "network/resolving.py": {"getaddrinfo"},  # of allowed hosts
    "testing/https_double.py": set(),  # listens, for tests
    "worker/ranks/launch.py": set(),  # a pair, to each other rank
}
"""Every module that knows of sockets, with what it may call of the ways out."""
Trees = dict[Path, ast.Module]
"""Modules by their paths below the package."""


@pytest.fixture(scope="module")
def trees() -> Trees:
    return {
        path.relative_to(SOURCE): ast.parse(path.read_text(encoding="utf-8")) for path in MODULES
    }


def test_modules_stay_readable() -> None:
    sizes = {p: len(p.read_text(encoding="utf-8").splitlines()) for p in MODULES}
    assert {p: n for p, n in sizes.items() if n > MAX_MODULE_LINES} == {}


def _code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function's body without its docstring."""
    has_docstring = ast.get_docstring(node) is not None
    body = node.body[1:] if has_docstring else node.body
    return (node.end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_functions_stay_readable(trees: Trees) -> None:
    long = [
        f"{path}:{node.lineno} {node.name}"
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and "migrations" not in path.parts
        and _code_lines(node) > MAX_FUNCTION_LINES
    ]
    assert long == []


def test_packages_stay_small_and_their_init_promises() -> None:
    for init in SOURCE.rglob("__init__.py"):
        modules = [p for p in init.parent.glob("*.py") if p.name != "__init__.py"]
        assert len(modules) <= MAX_PACKAGE_MODULES, init.parent
        tree = ast.parse(init.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), f"{init} promises nothing"
        if init.parent != SOURCE and "migrations" not in init.parts:
            assert len(tree.body) == 1, f"{init} holds more than its docstring"


def test_no_home_for_the_homeless() -> None:
    homeless = {"utils", "common", "helpers", "core", "misc", "util"}
    found = [p for p in MODULES if p.stem in homeless and p.parent.name != "engine"]
    assert found == []


def test_nothing_executes_data(trees: Trees) -> None:
    found = {str(path): list(_executing(tree)) for path, tree in trees.items()}
    assert {path: lines for path, lines in found.items() if lines} == {}


def _executing(tree: ast.Module) -> Iterator[str]:
    """Yield what is imported, called or passed that may run data as code, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] + [getattr(node, "module", "") or ""]
            yield from (f"{node.lineno}: {n}" for n in names if n.split(".")[0] in BANNED_IMPORTS)
        elif isinstance(node, ast.Call):
            yield from (f"{node.lineno}: {name}" for name in _banned_in(node))


def _banned_in(call: ast.Call) -> Iterator[str]:
    yield from (k.arg for k in call.keywords if k.arg and k.arg in BANNED_KEYWORDS)
    if isinstance(call.func, ast.Name) and call.func.id in BANNED_CALLS:
        yield call.func.id
    if isinstance(call.func, ast.Attribute):
        attribute = call.func.attr
        owner = ast.unparse(call.func.value)
        if (owner, attribute) in BANNED_ATTRIBUTES or attribute in {"extractall", "extract"}:
            yield f"{owner}.{attribute}"


def _imported(tree: ast.Module) -> Iterator[str]:
    """Yield each module that is imported, `a` and `a.b` of `from a import b` both."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _named(tree: ast.Module) -> Iterator[str]:
    """Yield each name and attribute that the module mentions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Name):
            yield node.id


@pytest.mark.row("NET-07")
def test_one_module_of_the_server_speaks_http_to_the_outside(trees: Trees) -> None:
    users = {
        str(path)
        for path, tree in trees.items()
        for name in _imported(tree)
        if name in HTTP_CLIENTS or name.split(".")[0] in HTTP_CLIENTS
    }
    assert {user for user in users if not user.startswith(USERS_SIDE)} == {"network/outbound.py"}


@pytest.mark.row("NET-07")
def test_every_socket_is_listed_with_what_it_may_do(trees: Trees) -> None:
    found = {
        str(path): WAYS_OUT.intersection(_named(tree))
        for path, tree in trees.items()
        if "socket" in _imported(tree) or WAYS_OUT.intersection(_named(tree))
    }
    assert {p: ways for p, ways in found.items() if not p.startswith(USERS_SIDE)} == SOCKETS


def _raises_on(handler: ast.ExceptHandler) -> bool:
    """Whether a handler only tidies up and lets the error go on."""
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def test_broad_catches_stand_only_at_process_edges(trees: Trees) -> None:
    allowed = {"server", "worker", "jobs", "engine", "app.py", "app", "store", "registry"}
    broad = [
        path
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler)
        and not _raises_on(node)
        and (node.type is None or ast.unparse(node.type) in {"Exception", "BaseException"})
    ]
    assert {p.parts[0] for p in broad} <= allowed, broad
    assert len(broad) <= 16, broad
