"""Linear kernels by number of rows: time of one layer, each precision against float32.

One layer of 1024 inputs and 4096 outputs, the bare operator and the row-stable layer that serves,
best of several passes, all kernels in turn within each round, in processor time of one thread, so
that a neighbour on the machine does not count. Microseconds are of this machine; read the ratios.
"""

import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.harness import Report, publish
from purvey.engine.linears import int8
from purvey.engine.linears.bf16 import Bf16Linears, has_native_bf16
from purvey.engine.linears.choice import choose
from purvey.engine.linears.float32 import Float32Linears
from purvey.engine.linears.int4 import Int4Linears

INPUTS, OUTPUTS = 1_024, 4_096
ROWS = (1, 2, 4, 8, 16, 32, 128, 512)
ROUNDS = 4
STABLE_ROWS = (1, 3, 8, 33)
Kernel = Callable[[Tensor], Tensor]


def main() -> int:
    """Measure and publish; fails where a row's bits depend on how many there are."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    kernels = _kernels(torch.randn((OUTPUTS, INPUTS), generator=generator) / INPUTS**0.5)
    x_TI = torch.randn((max(ROWS), INPUTS), generator=generator)
    unstable = [name for name, kernel in kernels.items() if not _is_stable(name, kernel, x_TI)]
    figures = {rows: _microseconds(kernels, x_TI[:rows]) for rows in ROWS}
    publish(
        Report(
            bar="linear_kernels",
            workload=__doc__.split("\n\n")[1].replace("\n", " "),
            target="rows are strangers in every layer that serves",
            verdict="UNSTABLE: " + ", ".join(unstable) if unstable else "met",
            figures={
                "us_by_rows": {str(rows): found for rows, found in figures.items()},
                "speed_over_fp32_by_rows": {
                    str(rows): {name: round(found["fp32"] / us, 2) for name, us in found.items()}
                    for rows, found in figures.items()
                },
                "levels_of_linear_dynamic": int8.dynamic_levels(),
                "onednn_is_exact": int8.has_exact_onednn(),
                "bf16_is_native": has_native_bf16(),
                "auto": choose("auto", num_parameters=10**9),
                "threads": torch.get_num_threads(),
            },
        )
    )
    return 1 if unstable else 0


def _kernels(weight_OI: Tensor) -> dict[str, Kernel]:
    q_OI, scale_O = int8.quantise_outputs(weight_OI)
    kernels: dict[str, Kernel] = {
        "fp32": Float32Linears().linear(weight_OI),
        "bf16": Bf16Linears().linear(weight_OI),
        "int8": int8.Int8Linears().linear(weight_OI),
        "int8 oneDNN": int8.OneDnnInt8(q_OI, scale_O),
        "int8 widened": int8.WidenedInt8(q_OI, scale_O),
        "int4": Int4Linears().linear(weight_OI),
    }
    levels = int8.dynamic_levels()
    if levels is not None:
        packed = torch.ops.quantized.linear_prepack(int8.as_quantised(q_OI, scale_O), None)
        is_reduced = levels < max(int8.LEVELS)
        kernels["int8 bare, batch scale"] = lambda x_TI: torch.ops.quantized.linear_dynamic(
            x_TI, packed, is_reduced
        )
    return kernels


def _is_stable(name: str, kernel: Kernel, x_TI: Tensor) -> bool:
    whole_TO = kernel(x_TI)
    is_stable = all(torch.equal(kernel(x_TI[:rows]), whole_TO[:rows]) for rows in STABLE_ROWS)
    return is_stable or "bare" in name


def _microseconds(kernels: dict[str, Kernel], x_TI: Tensor) -> dict[str, float]:
    best = dict.fromkeys(kernels, float("inf"))
    for _ in range(ROUNDS):
        for name, kernel in kernels.items():
            for _ in range(max(1, 32 // len(x_TI))):
                start = time.process_time()
                kernel(x_TI)
                best[name] = min(best[name], (time.process_time() - start) * 1e6)
    return {name: round(found, 1) for name, found in best.items()}


if __name__ == "__main__":
    sys.exit(main())
