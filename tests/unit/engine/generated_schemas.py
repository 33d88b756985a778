"""Schemas as people write them, made up from a seed: every keyword that is enforced, nested."""

import random
import string
from typing import Any

Schema = dict[str, Any]
PATTERNS = ("^[a-z]{2,5}$", "^(red|green) [0-9]{1,3}$", "^a", "[0-9]$", r"^\d{3}-\d{4}$", r"^\w+$")
FORMATS = ("date", "time", "date-time", "ipv4", "uuid", "email")


def schema_of(seed: int) -> Schema:
    """Make up one schema; the same seed makes the same."""
    chance = random.Random(seed)  # noqa: S311 (made-up data)
    schema = _Maker(chance).value(depth=0)
    definitions = {
        "tree": {
            "type": "object",
            "properties": {
                "leaf": {"type": "boolean"},
                "next": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]},
            },
            "required": ["leaf", "next"],
            "additionalProperties": False,
        },
        "small": {"type": "integer", "minimum": -3, "maximum": 3},
    }
    return {"$defs": definitions, "title": f"Schema {seed}"} | schema


class _Maker:
    def __init__(self, chance: random.Random) -> None:
        self.chance = chance

    def value(self, *, depth: int) -> Schema:
        makers = [self.text, self.number, self.integer, self.fixed, self.plain, self.reference]
        if depth < 3:
            makers += [self.record, self.record, self.listing, self.either, self.both]
        maker = self.chance.choice(makers[3:] if depth == 0 else makers)
        made = maker(depth)
        if self.chance.random() < 0.2:
            made["description"] = "as people write them"
        return made

    def text(self, depth: int) -> Schema:
        kind = self.chance.randrange(4)
        if kind == 0:
            return {"type": "string", "pattern": self.chance.choice(PATTERNS), "maxLength": 12}
        if kind == 1:
            return {"type": "string", "format": self.chance.choice(FORMATS)}
        least = self.chance.randrange(4)
        return {"type": "string", "minLength": least, "maxLength": least + self.chance.randrange(9)}

    def number(self, depth: int) -> Schema:
        low = self.chance.choice([-1.5, 0, 0.25, -1000])
        if self.chance.random() < 0.3:
            return {"type": "number", "multipleOf": 0.5, "minimum": -4, "maximum": 4}
        high = low + self.chance.choice([1, 1.5, 12.75])
        edge = self.chance.choice(["maximum", "exclusiveMaximum"])
        return {"type": "number", "minimum": low, edge: high}

    def integer(self, depth: int) -> Schema:
        low = self.chance.randrange(-200, 200)
        made: Schema = {"type": "integer", "minimum": low, "maximum": low + 90}
        if self.chance.random() < 0.3:
            made["multipleOf"] = self.chance.choice([2, 3, 7])
        return made

    def fixed(self, depth: int) -> Schema:
        values = [1, -2.5, "a", "two words", 'a "quoted" \\ one', None, True, [1, "x"], {"k": [2]}]
        if self.chance.random() < 0.4:
            return {"const": self.chance.choice(values)}
        return {"enum": self.chance.sample(values, self.chance.randrange(1, 5))}

    def plain(self, depth: int) -> Schema:
        return self.chance.choice(
            [{"type": "boolean"}, {"type": "null"}, {"type": ["boolean", "null"]}]
        )

    def reference(self, depth: int) -> Schema:
        return {"$ref": self.chance.choice(["#/$defs/tree", "#/$defs/small"])}

    def record(self, depth: int) -> Schema:
        names = self._names()
        made: Schema = {
            "type": "object",
            "properties": {name: self.value(depth=depth + 1) for name in names},
            "required": [name for name in names if self.chance.random() < 0.7],
        }
        kind = self.chance.randrange(5)
        if kind < 3:
            made["additionalProperties"] = False
        elif kind == 3:
            made["additionalProperties"] = {"type": "boolean"}
        else:
            made |= {"patternProperties": {"^x_": {"type": "null"}}, "additionalProperties": False}
        return made

    def listing(self, depth: int) -> Schema:
        least = self.chance.randrange(3)
        made: Schema = {"type": "array", "minItems": least, "maxItems": least + 2}
        if self.chance.random() < 0.3:
            made["prefixItems"] = [self.value(depth=depth + 1), self.value(depth=depth + 1)]
        made["items"] = self.value(depth=depth + 1)
        return made

    def either(self, depth: int) -> Schema:
        if self.chance.random() < 0.5:
            return {"anyOf": [self.value(depth=depth + 1), self.value(depth=depth + 1)]}
        kinds = [{"type": "boolean"}, {"type": "null"}, self.text(depth), self.integer(depth)]
        return {"oneOf": self.chance.sample(kinds, 2)}

    def both(self, depth: int) -> Schema:
        return {
            "allOf": [
                {"type": "object", "properties": {"a": self.value(depth=depth + 1)}},
                {"properties": {"b": {"type": "boolean"}}, "required": ["a", "b"]},
            ]
        }

    def _names(self) -> list[str]:
        letters = [*string.ascii_lowercase, "é", "日", "a b", '"', "\\", "<|im_end|>"]
        return self.chance.sample(letters, self.chance.randrange(1, 4))
