"""Where a JSON object ends in text that is still arriving."""


class ObjectSpan:
    """Follows one JSON object, character by character, by its brackets and strings alone.

    Whether it is JSON is for who reads it whole; what is not JSON may never end.
    """

    def __init__(self) -> None:
        self.depth = 0
        """Brackets that are open."""
        self._is_in_string = self._is_escaped = False

    def find_depth(self, text: str, start: int, depth: int) -> int | None:
        """Return where, behind a closing bracket, only `depth` are open; None if not yet.

        Args:
            text: The text; what stands before `start` was followed already.
            start: The first character that was not; without a result, all of them now were.
            depth: Brackets that are to be left open.
        """
        for at in range(start, len(text)):
            if self._closes(text[at]) and self.depth <= depth:
                return at + 1
        return None

    def _closes(self, character: str) -> bool:
        """Follow a character, and tell whether it is a closing bracket."""
        if self._is_in_string:
            if self._is_escaped:
                self._is_escaped = False
            elif character == "\\":
                self._is_escaped = True
            elif character == '"':
                self._is_in_string = False
            return False
        if character == '"':
            self._is_in_string = True
        elif character in "{[":
            self.depth += 1
        elif character in "}]":
            self.depth -= 1
            return True
        return False
