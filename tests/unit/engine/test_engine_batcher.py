"""The batcher: company for inputs, calibrated probabilities, errors that stay at home."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from purvey.contracts.engine import ImageInput, NamedInputs, NumberInput
from purvey.contracts.model import ModelManifest, NumberSpec
from purvey.engine.batcher import Batcher, ClassifierBatcher
from purvey.errors import CapacityError, InternalError, InvalidValueError, ShuttingDownError
from purvey.models.classifier import Classifier

BROKEN, NOT_FINITE = 13.0, 14.0


class Line(nn.Module):
    """Logits (x, 0); breaks on 13, is not finite on 14; remembers batch sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def forward(self, x_B: Tensor) -> Tensor:
        """Return `logits_BL`."""
        self.sizes.append(len(x_B))
        if (x_B == BROKEN).any():
            raise RuntimeError("broken")
        x_B = x_B.where(x_B != NOT_FINITE, torch.inf)
        return torch.stack([x_B, torch.zeros_like(x_B)], dim=1)


class Bench:
    """A batcher in its thread."""

    def __init__(self, *, temperature: float = 1.0, max_batch: int = 64) -> None:
        self.module = Line()
        manifest = ModelManifest(
            family="module",
            task="classification",
            labels=("up", "down"),
            inputs={"input": NumberSpec()},
            temperature=temperature,
        )
        model = Classifier(manifest=manifest, module=self.module)
        self.batcher = ClassifierBatcher(model, window_s=0.0, max_batch=max_batch)
        self.thread = threading.Thread(target=self.batcher.run)

    def drain(self) -> None:
        """Finish what was accepted."""
        self.batcher.drain()
        self.thread.join(60)
        assert not self.thread.is_alive()


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A batcher that has not started yet: what is submitted waits together."""
    made = Bench()
    yield made
    made.batcher.stop()
    if made.thread.ident is not None:
        made.thread.join(60)


def numbers(*values: float) -> list[NamedInputs]:
    """Build inputs."""
    return [{"input": NumberInput(value=value)} for value in values]


def test_what_waits_shares_a_forward_pass(bench: Bench) -> None:
    first = bench.batcher.submit(numbers(0.0, 1.0))
    second = bench.batcher.submit(numbers(2.0))
    assert bench.batcher.stats().waiting == 3
    bench.thread.start()
    p_BL = np.concatenate([first.result(60), second.result(60)])
    expected = [1 / (1 + np.exp(-x)) for x in (0.0, 1.0, 2.0)]
    assert p_BL[:, 0].tolist() == pytest.approx(expected, abs=1e-7)
    assert p_BL.sum(axis=1).tolist() == pytest.approx([1.0] * 3, abs=1e-12)
    assert bench.module.sizes == [3]
    bench.drain()


def test_probabilities_are_calibrated() -> None:
    bench = Bench(temperature=4.0)
    future = bench.batcher.submit(numbers(2.0))
    bench.thread.start()
    assert future.result(60)[0][0] == pytest.approx(1 / (1 + np.exp(-0.5)), abs=1e-7)
    bench.drain()


def test_batches_are_no_larger_than_they_may_be() -> None:
    bench = Bench(max_batch=4)
    submission = bench.batcher.enqueue(numbers(*range(10)))
    bench.thread.start()
    assert np.stack(submission.future.result(60)).shape == (10, 2)
    assert bench.module.sizes == [4, 4, 2]
    assert submission.compute_s > 0
    bench.drain()


@pytest.mark.parametrize("bad", [BROKEN, NOT_FINITE])
def test_an_input_that_breaks_fails_alone(bench: Bench, bad: float) -> None:
    good = bench.batcher.submit(numbers(0.0, 0.0))
    broken = bench.batcher.submit(numbers(1.0, bad))
    bench.thread.start()
    assert np.stack(good.result(60)).tolist() == [[0.5, 0.5]] * 2
    with pytest.raises(InternalError):
        broken.result(60)
    bench.drain()


def test_a_wrong_input_is_refused_before_it_waits(bench: Bench) -> None:
    with pytest.raises(InvalidValueError) as caught:
        bench.batcher.submit([{"input": ImageInput(data=b"x")}])
    assert caught.value.param == "input"
    assert bench.batcher.stats().waiting == 0


def test_no_inputs(bench: Bench) -> None:
    assert bench.batcher.submit([]).result(0) == []


def test_a_cancelled_submission_is_not_computed(bench: Bench) -> None:
    gone = bench.batcher.submit(numbers(BROKEN))
    kept = bench.batcher.submit(numbers(0.0))
    assert gone.cancel()
    bench.thread.start()
    kept.result(60)
    assert bench.module.sizes == [1]
    bench.drain()


def test_a_full_queue_refuses(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("purvey.engine.batcher.MAX_QUEUED_INPUTS", 2)
    bench.batcher.submit(numbers(0.0, 0.0))
    with pytest.raises(CapacityError):
        bench.batcher.submit(numbers(0.0))


def test_draining_answers_and_stopping_cancels() -> None:
    drained, stopped = Bench(), Bench()
    answered = drained.batcher.submit(numbers(0.0))
    dropped = stopped.batcher.submit(numbers(0.0))
    drained.thread.start()
    drained.drain()
    assert np.stack(answered.result(0)).shape == (1, 2)
    stopped.batcher.stop()
    stopped.batcher.run()
    assert dropped.cancelled()
    for bench in (drained, stopped):
        with pytest.raises(ShuttingDownError):
            bench.batcher.submit(numbers(0.0))


def test_a_batch_costs_no_more_than_it_may_but_for_a_single_input() -> None:
    sizes: list[list[int]] = []

    def compute(lengths: list[int]) -> list[int]:
        sizes.append(lengths)
        return lengths

    batcher = Batcher(compute, window_s=0.0, max_batch=3, max_cost=10, cost=int)
    submission = batcher.put([4, 6, 1, 25, 3, 3, 3, 1])
    thread = threading.Thread(target=batcher.run)
    thread.start()
    assert submission.future.result(60) == [4, 6, 1, 25, 3, 3, 3, 1]
    assert sizes == [[4, 6], [1], [25], [3, 3, 3], [1]]
    batcher.drain()
    thread.join(60)


def test_callers_take_turns() -> None:
    batches: list[list[str]] = []

    def compute(names: list[str]) -> list[str]:
        batches.append(names)
        return names

    batcher = Batcher(compute, window_s=0.0, max_batch=3)
    many = batcher.put(["a1", "a2", "a3", "a4", "a5"])
    one, two = batcher.put(["b1"]), batcher.put(["c1", "c2"])
    assert batcher.stats().waiting == 8
    thread = threading.Thread(target=batcher.run)
    thread.start()
    assert many.future.result(60) == ["a1", "a2", "a3", "a4", "a5"]
    assert (one.future.result(60), two.future.result(60)) == (["b1"], ["c1", "c2"])
    assert batches == [["a1", "b1", "c1"], ["a2", "c2", "a3"], ["a4", "a5"]]
    assert batcher.stats().waiting == 0
    batcher.drain()
    thread.join(60)
