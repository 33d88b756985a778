"""Which tests need the data plane: where torch is not installed, all others run without them."""

from importlib.util import find_spec

DATA_PLANE = [
    *("engine", "explain", "parse", "worker"),
    *("test_data_*", "test_models_*", "test_train_*", "test_evaluate_*"),
]


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ImportError:  # an import blocker says so
        return False


collect_ignore_glob = [] if _is_installed("torch") else DATA_PLANE
