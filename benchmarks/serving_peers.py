"""Bar 2: sixteen concurrent streams over HTTP, against llama-server.

0.4 billion random weights in eight bits; sixteen texts of 128 tokens, new in each block, sent at
once to `/v1/completions`; 64 greedy tokens each; two threads for either engine, beside the load
generator on the same cores. Counted are output tokens per second from the first request sent to the
last token received, and those of streams with the first token within 2 s and 95 % of gaps within
200 ms (goodput). Ours is `purvey serve`: keys, ledger and all.
"""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median
from typing import Any

from benchmarks.harness import Ratio, Report, paired, publish
from benchmarks.peers import llama_cpp
from benchmarks.peers.calibration import calibrate
from benchmarks.peers.http_load import Load, load
from benchmarks.peers.model import text_prompts, token_prompts
from benchmarks.peers.ours import our_server
from benchmarks.peers.profile import profiled
from benchmarks.peers.server import HttpPeer
from benchmarks.quick import is_quick
from purvey.contracts.deployment import Precision

THREADS = os.cpu_count() or 1
WITH_USAGE = {"stream_options": {"include_usage": True}}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Streams at once, tokens of each prompt, tokens of each output."""

    streams: int
    prompt: int
    outputs: int


FULL = Shape(streams=16, prompt=128, outputs=64)
QUICK = Shape(streams=2, prompt=16, outputs=3)


@dataclass(frozen=True, kw_only=True)
class Rival:
    """A peer's server and ours at the same bits per weight.

    Args:
        precision: What ours computes in.
        peer: The peer and its kind of weights.
        start: Starts the peer.
        extra: Fields of the peer's requests beside the common ones.
    """

    precision: Precision
    peer: str
    start: Callable[[], HttpPeer]
    extra: Mapping[str, Any]

    @property
    def name(self) -> str:
        """How the report calls it."""
        return f"{self.precision} / {self.peer}"


LLAMA_SERVER = Rival(
    precision="int8",
    peer=f"llama-server q8_0 -np {FULL.streams}",
    start=partial(llama_cpp.server, "q8_0", threads=THREADS, slots=FULL.streams, positions=256),
    extra={**WITH_USAGE, "cache_prompt": False},
)


def main() -> int:
    """Measure against llama-server, and publish."""
    return measure("serving_peers", (LLAMA_SERVER,), workload=_first_paragraph(__doc__))


def measure(bar: str, rivals: tuple[Rival, ...], *, workload: str) -> int:
    """Measure the load on each peer's server and on ours, and publish."""
    quick = is_quick()
    shape = QUICK if quick else FULL
    before = calibrate(threads=THREADS)
    found = {rival.name: _measured(rival, shape, rounds=1 if quick else 5) for rival in rivals}
    after = calibrate(threads=THREADS)
    least = min(told["ratio"] for told in found.values())
    is_sound = all(told["prompt_tokens"] == [shape.prompt] for told in found.values())
    publish(
        Report(
            bar=bar,
            workload=workload,
            target=">= 1.3 of the best peer's output tokens per second (release: 1.5)",
            verdict=("met" if least >= 1.3 else "missed") if is_sound else "PROMPTS DIFFER",
            figures={
                **found,
                "streams": shape.streams,
                "limits_before": asdict(before),
                "limits_after": asdict(after),
                "threads": THREADS,
                "quick": quick,
            },
            notes=[
                "Every stream was given all its tokens, and all servers counted the same prompts.",
                "Greedy tokens at this precision are held to float32 by bar 1's gate.",
                *profiled(
                    rivals[0].precision,
                    token_prompts(shape.streams, shape.prompt, seed=1),
                    outputs=shape.outputs,
                    threads=THREADS,
                ),
            ],
        )
    )
    return 0 if is_sound else 1


def _measured(rival: Rival, shape: Shape, *, rounds: int) -> dict[str, Any]:
    """Interleave blocks; the n-th of either side is given the same texts, new to both."""
    print(f"{rival.name} ...", file=sys.stderr, flush=True)
    loads: dict[str, list[Load]] = {"ours": [], "peer": []}
    with rival.start() as peer, our_server(rival.precision, threads=THREADS) as ours:

        def block(side: str, server: HttpPeer, extra: Mapping[str, Any]) -> float:
            texts = text_prompts(shape.streams, shape.prompt, seed=100 + len(loads[side]))
            loads[side].append(load(server, texts, max_tokens=shape.outputs, extra=extra))
            return loads[side][-1].tokens_per_s

        ratio = paired(
            lambda: block("ours", ours, WITH_USAGE),
            lambda: block("peer", peer, rival.extra),
            rounds=rounds,
        )
    return _told(ratio, loads)


def _told(ratio: Ratio, loads: Mapping[str, list[Load]]) -> dict[str, Any]:
    told: dict[str, Any] = {
        "ratio": ratio.median,
        "ratio_95": [ratio.low, ratio.high],
        "rounds": ratio.rounds,
        "discarded": ratio.discarded,
        "prompt_tokens": sorted(
            {
                stream.prompt_tokens
                for side in loads.values()
                for one in side
                for stream in one.streams
            }
        ),
    }
    for side, every in loads.items():
        counted = every[1:]  # the first warmed up
        streams = [stream for one in counted for stream in one.streams]
        told |= {
            f"{side}_tok_s": median(one.tokens_per_s for one in counted),
            f"{side}_good_tok_s": median(one.good_tokens_per_s for one in counted),
            f"{side}_cpu_us_per_token": median(one.cpu_us_per_token for one in counted),
            f"{side}_ttft_median_s": median(stream.first_s for stream in streams),
            f"{side}_ttft_max_s": max(stream.first_s for stream in streams),
        }
    return told


def _first_paragraph(text: str) -> str:
    return text.split("\n\n")[1].replace("\n", " ").strip()


if __name__ == "__main__":
    sys.exit(main())
