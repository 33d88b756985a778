"""Our engine and one peer's, side by side: the gate, then interleaved blocks of fresh prompts."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.harness import Ratio, paired
from benchmarks.peers.answer import Answer, from_child
from benchmarks.peers.child import JsonChild
from benchmarks.peers.gate import Oracle, top_logprobs
from benchmarks.peers.model import token_prompts
from benchmarks.peers.ours import NUM_LOGPROBS, OurEngine
from purvey.contracts.deployment import Precision

GATE_SEED, BLOCK_SEED = 1, 100


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Who is compared with whom, at the same bits per weight.

    Args:
        precision: What ours computes in.
        peer: The peer and its kind of weights.
        start: Starts the peer's child.
        is_exact: Whether both are float32, so that tokens must be equal.
    """

    precision: Precision
    peer: str
    start: Callable[[], JsonChild]
    is_exact: bool = False

    @property
    def name(self) -> str:
        """How the report calls it."""
        return f"{self.precision} / {self.peer}"


@dataclass(frozen=True, kw_only=True)
class Block:
    """What is asked in one block, and the figure that is taken from it.

    Args:
        sequences: Prompts at once.
        prompt_tokens: Length of each.
        outputs: Tokens after each.
        figure: What of an answer counts; higher is better.
    """

    sequences: int
    prompt_tokens: int
    outputs: int
    figure: Callable[[Answer], float]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One pair's figures, and whether its gate let it pass."""

    ratio: Ratio
    gate: dict[str, Any]
    passed: bool
    weights_bytes: int

    def figures(self) -> dict[str, Any]:
        """Return what the report tells."""
        return self.ratio.figures() | {"gate": self.gate}


def compare(pair: Pair, block: Block, oracle: Oracle, *, threads: int, rounds: int) -> Outcome:
    """Start both sides, ask them what the oracle knows, then measure."""
    print(f"{pair.name} ...", file=sys.stderr, flush=True)
    with pair.start() as peer, OurEngine(pair.precision, threads=threads) as ours:
        gate, passed = _gate(pair, peer, ours, oracle)
        return Outcome(
            ratio=_ratio(block, peer, ours, rounds=rounds),
            gate=gate,
            passed=passed,
            weights_bytes=ours.weights_bytes,
        )


def _ratio(block: Block, peer: JsonChild, ours: OurEngine, *, rounds: int) -> Ratio:
    """Interleave; the n-th block of either side is given the same prompts, new to both."""
    asked = {"peer": 0, "ours": 0}

    def prompts(side: str) -> list[list[int]]:
        asked[side] += 1
        return token_prompts(block.sequences, block.prompt_tokens, seed=BLOCK_SEED + asked[side])

    def of_peer() -> float:
        given = prompts("peer")
        answer = peer.ask(prompts=given, max_tokens=block.outputs)
        return block.figure(from_child(answer, len(given), block.outputs))

    def of_ours() -> float:
        return block.figure(ours.generate(prompts("ours"), block.outputs))

    return paired(of_ours, of_peer, rounds=rounds)


def _gate(
    pair: Pair, peer: JsonChild, ours: OurEngine, oracle: Oracle
) -> tuple[dict[str, Any], bool]:
    outputs = len(oracle.tokens[0])
    theirs = peer.ask(prompts=oracle.prompts, max_tokens=outputs, logits=True)
    own = ours.generate(oracle.prompts, outputs, with_ids=True)
    told: dict[str, Any] = {
        "ours_tokens": oracle.equal_tokens(own.tokens),
        "peer_tokens": oracle.equal_tokens(theirs["tokens"]),
    }
    if pair.is_exact:
        return told, told["ours_tokens"]["is_equal"] and told["peer_tokens"]["is_equal"]
    told["ours_kl"] = oracle.divergence(ours.first_logprobs(oracle.prompts))
    told["most_kl"] = oracle.most_divergence(pair.precision)
    if theirs["logits"] is not None:  # one peer tells none
        scores_BV = torch.tensor(theirs["logits"])
        told["peer_kl"] = oracle.divergence(top_logprobs(scores_BV, NUM_LOGPROBS))
    return told, told["ours_kl"] <= told["most_kl"]
