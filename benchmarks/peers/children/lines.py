"""A child's end of the JSON lines: one request a line in, one answer a line out.

Whatever else prints goes to standard error, so that a library's chatter is no answer.
"""

import json
import os
import sys


def serve(answer) -> None:
    """Call `answer` with each request's fields until the input ends."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        print(json.dumps(answer(**json.loads(line))), file=out, flush=True)
