"""Bar 4: what a prompt costs whose beginning is known, and what looking for it costs in vain.

A Llama shape of 0.4 billion random weights in eight bits, over HTTP, two threads. Warm: a text of
1,024 tokens was asked before, and 32 new ones follow it; cold: all are new. Counted is the time to
the first token. Chats: sixteen at once, 16 tokens each, over one beginning that was asked before,
against sixteen with beginnings of their own. Miss: new prompts of 512 tokens, by an engine that
looks for known beginnings and one that does not.
"""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from benchmarks.harness import Ratio, Report, paired, publish
from benchmarks.peers import llama_cpp
from benchmarks.peers.calibration import calibrate
from benchmarks.peers.http_load import load
from benchmarks.peers.model import text_prompts, token_prompts
from benchmarks.peers.ours import OurEngine, our_server
from benchmarks.peers.server import HttpPeer
from benchmarks.quick import is_quick

THREADS = os.cpu_count() or 1
BEGINNING, REST, CHATS, OUTPUTS = (64, 16, 2, 2) if is_quick() else (1_024, 32, 16, 16)
MISS, ROUNDS = (32, 1) if is_quick() else (512, 5)
MOST_WARM, LEAST_CHATS, MOST_MISS = 1 / 15, 3.0, 1.01
WITH_USAGE = {"stream_options": {"include_usage": True}}


class Asked:
    """One server that is asked with beginnings it knows and others; each text is new to it."""

    def __init__(self, server: HttpPeer, extra: Mapping[str, Any]) -> None:
        self._server, self._extra = server, extra
        self._seed = 0
        self._known = self._texts(1, BEGINNING)[0]
        self._first(self._known)

    def warm_s(self) -> float:
        """Seconds to the first token behind the known beginning."""
        return self._first(self._known + self._texts(1, REST)[0])

    def cold_s(self) -> float:
        """Seconds to the first token of a prompt that is all new."""
        return self._first(self._texts(1, BEGINNING)[0] + self._texts(1, REST)[0])

    def shared_s(self) -> float:
        """Seconds for all chats over the known beginning."""
        return self._wall([self._known + rest for rest in self._texts(CHATS, REST)])

    def apart_s(self) -> float:
        """Seconds for as many chats with beginnings of their own."""
        beginnings, rests = self._texts(CHATS, BEGINNING), self._texts(CHATS, REST)
        return self._wall([a + b for a, b in zip(beginnings, rests, strict=True)])

    def _texts(self, count: int, length: int) -> list[str]:
        self._seed += 1
        return text_prompts(count, length, seed=1_000 + self._seed)

    def _first(self, text: str) -> float:
        return load(self._server, [text], max_tokens=1, extra=self._extra).streams[0].first_s

    def _wall(self, texts: list[str]) -> float:
        return load(self._server, texts, max_tokens=OUTPUTS, extra=self._extra).wall_s


def main() -> int:
    """Measure ours, llama-server for the same, and the cost of a miss, and publish."""
    limits = calibrate(threads=THREADS)
    figures: dict[str, Any] = {}
    with our_server("int8", threads=THREADS) as server:
        ours = Asked(server, WITH_USAGE)
        figures["warm / cold"] = paired(ours.warm_s, ours.cold_s, rounds=ROUNDS).figures()
        chats = paired(ours.apart_s, ours.shared_s, rounds=1)  # half a minute each
        figures["chats apart / shared"] = chats.figures()
    with _llama_server() as server:
        theirs = Asked(server, {**WITH_USAGE, "cache_prompt": True})
        told = paired(theirs.warm_s, theirs.cold_s, rounds=ROUNDS).figures()
        figures["llama-server q8_0: warm / cold"] = told
    figures["miss: with / without the cache"] = _miss().figures()
    is_met = (
        figures["warm / cold"]["ratio"] <= MOST_WARM
        and figures["chats apart / shared"]["ratio"] >= LEAST_CHATS
        and figures["miss: with / without the cache"]["ratio"] <= MOST_MISS
    )
    publish(
        Report(
            bar="prefix_cache",
            workload=(__doc__ or "").split("\n\n")[1].replace("\n", " "),
            target="warm / cold <= 1/15; chats >= 3; a miss <= 1 % dearer",
            verdict="met" if is_met else "missed",
            figures={**figures, "limits": asdict(limits), "threads": THREADS},
        )
    )
    return 0


def _llama_server() -> HttpPeer:
    return llama_cpp.server("q8_0", threads=THREADS, slots=1, positions=BEGINNING + 512)


def _miss() -> Ratio:
    """Compare seconds to the first token of new prompts, one engine after the other."""
    with (
        OurEngine("int8", threads=THREADS) as looking,
        OurEngine("int8", threads=THREADS, prefix_cache=False) as plain,
    ):
        return paired(_asking(looking), _asking(plain), rounds=2 * ROUNDS)


def _asking(engine: OurEngine) -> Callable[[], float]:
    asked = 0

    def block() -> float:
        nonlocal asked
        asked += 1
        answer = engine.generate(token_prompts(1, MISS, seed=5_000 + asked), 1)
        return answer.first_s[0]

    return block


if __name__ == "__main__":
    sys.exit(main())
