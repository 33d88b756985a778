"""A step followed on the meta device: what it would hold at its peak, and compute.

Tensors there have shapes and no numbers, so the largest network costs nothing. What depends on
numbers is answered as if all of them were 1. Memory that kernels take for themselves while they
run is not seen.
"""

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import _engine_run_backward
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry

from purvey.train.learner import Learner

_aten = torch.ops.aten
_FUSED = _aten._scaled_dot_product_flash_attention_for_cpu.default
_FUSED_BACK = _aten._scaled_dot_product_flash_attention_for_cpu_backward.default


@dataclass(frozen=True, kw_only=True)
class Followed:
    """What one forward and backward takes.

    Args:
        peak_bytes: Held at once beside weights and buffers: activations and gradients.
        inputs_bytes: Of the tensors that the rows were given as.
        flops: Multiplications and additions of products, convolutions and attention.
        num_rows: Rows that were followed.
    """

    peak_bytes: int
    inputs_bytes: int
    flops: int
    num_rows: int


def follow(learner: Learner, rows: Sequence[int]) -> Followed:
    """Follow the loss of some rows forward and back; the module lies on the meta device.

    Raises:
        RuntimeError: The module does what has no meaning without numbers; others that its code
            raises pass through.
    """
    learner.module.train()
    with _FusedAttention(), _Tally(learner.module) as tally:
        loss = learner.loss(rows).loss
        # Not `loss.backward()`, within which a mode of functions is off: a layer that is computed
        # again there would attend otherwise than before.
        ones = (torch.ones_like(loss),)
        _engine_run_backward((loss,), ones, False, False, (), True, True)  # noqa: FBT003 (torch)
    learner.module.zero_grad(set_to_none=True)
    return Followed(
        peak_bytes=tally.peak_bytes,
        inputs_bytes=sum(tally.inputs.values()),
        flops=tally.flops,
        num_rows=len(rows),
    )


class _Tally(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch
    """Counts storages on the meta device as they come and go, and the arithmetic.

    Tensors of the CPU that meet one of the meta device are taken for one.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Say that torch need not keep its compiler away, whose import takes seconds."""
        return False

    def __init__(self, module: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch
        own = [*module.parameters(), *module.buffers()]
        self._held: dict[int, object] = {_key(tensor): tensor for tensor in own}
        self._live_bytes = self.peak_bytes = self.flops = 0
        self.inputs: dict[int, int] = {}  # bytes of each storage of the CPU

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],  # Any: a protocol of torch, for all of its operators
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 (as above)
        given = dict(kwargs or {})
        tensors = [x for x in tree_leaves((args, given)) if isinstance(x, Tensor)]
        if not (any(x.is_meta for x in tensors) or _makes_meta(given)):
            return func(*args, **given)
        self.inputs |= {_key(x): x.untyped_storage().nbytes() for x in tensors if not x.is_meta}
        if func in _AS_IF_ONE:
            return _AS_IF_ONE[func](args[0])
        out = _computed(func, args, given)
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.is_meta:
                self._hold(tensor)
        self.flops += _flops(func, args, given, out)
        return out

    def _hold(self, tensor: Tensor) -> None:
        key = _key(tensor)
        if key in self._held:
            return
        storage = tensor.untyped_storage()
        size = storage.nbytes()
        self._held[key] = weakref.ref(storage, partial(self._drop, key, size))
        self._live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self._live_bytes)

    def _drop(self, key: int, size: int, _: object) -> None:
        del self._held[key]
        self._live_bytes -= size


class _FusedAttention(TorchFunctionMode):
    """Has attention take the kernel that the CPU would choose: without its matrix of scores."""

    def __torch_function__(
        self,
        func: Callable[..., Any],  # Any: as above
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 (as above)
        given = dict(kwargs or {})
        is_ours = func is scaled_dot_product_attention and len(args) == 3
        if not is_ours or args[0].ndim != 4 or given.get("dropout_p") or not args[0].is_meta:
            return func(*args, **given)
        mask = given.get("attn_mask")
        if mask is not None:
            mask = torch.empty(mask.shape, dtype=args[0].dtype, device="meta")
        out, _ = _FUSED(
            *args, 0.0, given.get("is_causal", False), attn_mask=mask, scale=given.get("scale")
        )
        return out


def _key(tensor: Tensor) -> int:
    address: int = tensor.untyped_storage()._cdata
    return address


def _makes_meta(given: Mapping[str, Any]) -> bool:
    device = given.get("device")
    return device is not None and torch.device(device).type == "meta"


def _on_meta(tensor: Tensor) -> Tensor:
    return tensor if tensor.is_meta or not tensor.ndim else tensor.to("meta")


def _computed(func: Callable[..., Any], args: tuple[Any, ...], given: dict[str, Any]) -> object:
    """Return what an operator gives on the meta device; what it lacks there is computed on zeros.

    Of an operator that is computed, tensors of the CPU keep their numbers.
    """
    moved: Any = tree_map_only(Tensor, _on_meta, (args, given))
    try:
        found: object = func(*moved[0], **moved[1])
    except NotImplementedError:
        zeros: Any = tree_map_only(Tensor, _with_zeros, (args, given))
        found = tree_map_only(Tensor, lambda x: x.to("meta"), func(*zeros[0], **zeros[1]))
    return found


def _with_zeros(tensor: Tensor) -> Tensor:
    return torch.zeros(tensor.shape, dtype=tensor.dtype) if tensor.is_meta else tensor


def _flops(
    func: Callable[..., Any], args: tuple[Any, ...], given: dict[str, Any], out: object
) -> int:
    if func in (_FUSED, _FUSED_BACK):
        q_BNLH, k_BNLH = (args[0], args[1]) if func is _FUSED else (args[1], args[2])
        products = 2 if func is _FUSED else 5
        size: int = q_BNLH.numel() * k_BNLH.shape[2]
        return 2 * products * size
    count = flop_registry.get(getattr(func, "_overloadpacket", None))
    return int(count(*args, **given, out_val=out)) if count is not None else 0


def _one(tensor: Tensor) -> float | int | bool:
    if tensor.dtype == torch.bool:
        return True
    return 1.0 if tensor.is_floating_point() else 1


def _everywhere(tensor: Tensor) -> Tensor:
    return torch.empty((tensor.numel(), tensor.ndim), dtype=torch.int64, device="meta")


_AS_IF_ONE: dict[Callable[..., Any], Callable[[Tensor], Any]] = {
    _aten._local_scalar_dense.default: _one,
    _aten.nonzero.default: _everywhere,
}
