"""When a process of the data plane looks for garbage: not while it imports.

What is imported stays, and is more than a process makes in its first minutes; to search it again
and again takes a tenth of a start.
"""

import gc


def ignore() -> None:
    """Collect nothing until `collect_from_here`."""
    gc.disable()


def collect_from_here() -> None:
    """Collect what is made from now on; what is there is never looked at again.

    Nothing happens where nothing was ignored.
    """
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
