"""llama.cpp, built natively from the sources that the llama-cpp-python package carries.

One build gives the library and `llama-server`; the package's Python binding is used from its
sources, on that library. Building takes some ten minutes of processor time.
"""

import os
import tarfile
from pathlib import Path

from benchmarks.peers.cache import CHILDREN, Environment, child_environment, once, run
from benchmarks.peers.child import JsonChild
from benchmarks.peers.model import model_folder
from benchmarks.peers.server import HttpPeer, free_port

VERSION = "0.3.36"
ENVIRONMENT = Environment(
    name="llama_cpp",
    requirements=(
        "numpy==2.4.6",
        "typing-extensions==4.16.0",
        "diskcache==5.6.3",
        "jinja2==3.1.6",
        "tqdm==4.70.1",
        "pyyaml==6.0.4",
        "requests==2.34.2",
    ),
)
FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=ON",
    "-DGGML_NATIVE=ON",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_COMMON=ON",
    "-DLLAMA_BUILD_TOOLS=ON",
    "-DLLAMA_BUILD_SERVER=ON",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
)
LIBRARY, SERVER = "libllama.so", "llama-server"


def setup() -> None:
    """Make the environment and build what is missing."""
    ENVIRONMENT.python()
    built(LIBRARY)
    built(SERVER)


def built(name: str) -> Path:
    """Return a file of the build, building it first where it is missing."""
    path = ENVIRONMENT.folder / "build" / "bin" / name
    if once(path):
        build = str(ENVIRONMENT.folder / "build")
        run(["cmake", "-S", str(_vendored()), "-B", build, "-G", "Ninja", *FLAGS])
        jobs, target = str(os.cpu_count() or 1), "llama" if name == LIBRARY else name
        run(["nice", "-n", "19", "cmake", "--build", build, "-j", jobs, "--target", target])
    return path


def weights(kind: str) -> Path:
    """Return the model as GGUF in `kind`: f32, or what the library's quantiser makes of that."""
    path = ENVIRONMENT.folder / "models" / f"llama-0.4b-{kind}.gguf"
    if once(path):
        unfinished = path.with_suffix(".unfinished")
        if kind == "f32":
            env = child_environment(1, {"PYTHONPATH": str(_vendored() / "gguf-py")})
            arguments = ["gguf_convert.py", str(model_folder()), str(unfinished)]
        else:
            env = _bound(os.cpu_count() or 1)
            arguments = ["gguf_quantize.py", str(weights("f32")), str(unfinished), kind]
        run([str(ENVIRONMENT.python()), str(CHILDREN / arguments[0]), *arguments[1:]], env=env)
        unfinished.rename(path)
    return path


def engine(kind: str, *, threads: int) -> JsonChild:
    """Start the library on the model in `kind`; it answers `prompts` and `max_tokens`."""
    script = str(CHILDREN / "llama_cpp_child.py")
    command = [str(ENVIRONMENT.python()), script, str(weights(kind)), str(threads)]
    return JsonChild(f"llama_cpp-{kind}", command, _bound(threads))


def server(kind: str, *, threads: int, slots: int, positions: int) -> HttpPeer:
    """Start `llama-server` with a slot for each stream; prompts are computed anew each time."""
    port = free_port()
    command = [
        *(str(built(SERVER)), "--model", str(weights(kind)), "--port", str(port)),
        *("--parallel", str(slots), "--ctx-size", str(slots * positions)),
        *("--threads", str(threads), "--threads-batch", str(threads), "--no-webui"),
    ]
    return HttpPeer(
        f"llama-server-{kind}",
        command,
        child_environment(threads),
        base_url=f"http://127.0.0.1:{port}",
        health="/health",
    )


def _bound(threads: int) -> dict[str, str]:
    """Return the environment in which the Python binding finds the library."""
    library = str(built(LIBRARY).parent)
    return child_environment(threads, {"PYTHONPATH": str(_source()), "LLAMA_CPP_LIB_PATH": library})


def _source() -> Path:
    folder = ENVIRONMENT.folder / "source"
    if once(folder):
        python = str(ENVIRONMENT.python())
        name = f"llama-cpp-python=={VERSION}"
        sdist = ["--no-deps", "--no-binary", "llama-cpp-python", "--dest", str(folder.parent)]
        run([python, "-m", "pip", "download", "--quiet", name, *sdist])
        archive = next(folder.parent.glob("llama_cpp_python-*.tar.gz"))
        with tarfile.open(archive) as opened:
            opened.extractall(folder.parent, filter="data")
        (folder.parent / archive.name.removesuffix(".tar.gz")).rename(folder)
    return folder


def _vendored() -> Path:
    return _source() / "vendor" / "llama.cpp"
