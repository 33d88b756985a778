"""Which precision a model is served in, and the layers that compute it."""

from typing import Literal

from purvey.contracts.deployment import Precision
from purvey.engine.linears.base import LinearFactory
from purvey.engine.linears.bf16 import Bf16Linears, has_native_bf16
from purvey.engine.linears.float32 import Float32Linears
from purvey.engine.linears.int4 import Int4Linears
from purvey.engine.linears.int8 import Int8Linears, dynamic_levels, has_exact_onednn

Chosen = Literal["fp32", "bf16", "int8", "int4"]
NAMES: dict[Chosen, str] = {
    "fp32": "float32",
    "bf16": "bfloat16",
    "int8": "int8",
    "int4": "int4",
}
"""What a loaded model says of itself."""
SMALL_PARAMETERS = 50_000_000
"""A model with fewer is fast enough as it is: `auto` leaves it in float32."""


def choose(precision: Precision, *, num_parameters: int) -> Chosen:
    """Decide what `auto` means on this processor; any other choice stands.

    Small models stay in float32. Others take 8 bits where integer products are exact, of rows
    rounded to 7 bits where there is no VNNI or its like: perplexity rises by 0.5 % at most in both
    (`tests/numerics/test_engine_precision.py`). Else bfloat16 where the processor multiplies it;
    else float32.
    """
    if precision != "auto":
        return precision
    if num_parameters < SMALL_PARAMETERS:
        return "fp32"
    if dynamic_levels() is not None or has_exact_onednn():
        return "int8"
    return "bf16" if has_native_bf16() else "fp32"


def linears(chosen: Chosen) -> LinearFactory:
    """Return what builds the layers of a precision."""
    factories: dict[Chosen, type[LinearFactory]] = {
        "fp32": Float32Linears,
        "bf16": Bf16Linears,
        "int8": Int8Linears,
        "int4": Int4Linears,
    }
    return factories[chosen]()
