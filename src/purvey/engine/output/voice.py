"""How a model converses: its own way, or that of one of its adapters."""

from dataclasses import dataclass

from purvey.engine.adapters.roster import Adapter
from purvey.engine.output.grammar import Grammars
from purvey.models.chat import ChatTemplate


@dataclass(frozen=True, kw_only=True, eq=False)
class Voice:
    """What decides how prompts are written and where outputs end.

    Args:
        template: The chat template; None when it takes no conversations.
        stop_ids: Tokens that end an output.
        grammars: Compiles what outputs must look like, with these tokens as their end.
        adapter: What computes beside the base, if anything.
    """

    template: ChatTemplate | None
    stop_ids: frozenset[int]
    grammars: Grammars
    adapter: Adapter | None = None
