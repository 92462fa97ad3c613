"""Checks of what comes in over the wire: every violation is collected, with the path of its field."""

import unicodedata
from collections.abc import Iterable

QUANTITY_MAX = 1_000_000
COUNT_MAX = 1_000_000_000
ID_MAX = 2**63 - 1
CHOSEN_ID_MAX = 2**53 - 1
"""The greatest id that a new product or warehouse may be given: the ids behind it are the server's to draw."""
OPAQUE_ID_LENGTH_MAX = 64
CALL_LINES_MAX = 100
PAGE_SIZE_MAX = 1000
KEYS_MAX = 1000
BATCH_MAX = 1000
MICROS = 1_000_000
CALL_VIOLATIONS_MAX = 300
"""What is looked for in one request: as many as its lines have fields."""
VIOLATIONS_IN_TEXT_MAX = 5
"""Violations in the text for people; the structured ones are many more."""


class InvalidRequest(Exception):
    """A malformed request; `violations` are pairs of a field's path and what is wrong with it."""

    def __init__(self, violations: Iterable[tuple[str, str]]) -> None:
        self.violations = tuple(violations)
        text = "; ".join(f"{field}: {problem}" for field, problem in self.violations[:VIOLATIONS_IN_TEXT_MAX])
        more = len(self.violations) - VIOLATIONS_IN_TEXT_MAX
        super().__init__(f"{text} (and {more} more)" if more > 0 else text)


class Checks:
    """Collects violations; `done` raises if there are any."""

    def __init__(self) -> None:
        self.violations: list[tuple[str, str]] = []

    def fail(self, field: str, problem: str) -> None:
        """Note a violation. Raises: InvalidRequest, once there are more than anybody is told of."""
        self.violations.append((field, problem))
        if len(self.violations) >= CALL_VIOLATIONS_MAX:
            self.done()

    def opaque_id(self, field: str, value: str, *, required: bool = True) -> str:
        """An id that the caller chose: 1 to 64 characters, no white space at its ends, no control characters."""
        if value:
            # Checked here first because nearly all ids are fine, and there are several in every call.
            if len(value) > OPAQUE_ID_LENGTH_MAX or not value.isprintable():
                self.text(field, value, OPAQUE_ID_LENGTH_MAX)
            if value != value.strip():
                self.fail(field, "must not begin or end with white space")
        elif required:
            self.fail(field, "is required")
        return value

    def text(self, field: str, value: str, length_max: int, *, required: bool = False) -> str:
        """Free text of at most `length_max` characters, without control characters."""
        if required and not value.strip():
            self.fail(field, "is required")
        if len(value) > length_max:
            self.fail(field, f"has {len(value)} characters, at most {length_max} are allowed")
        elif not value.isprintable() and any(unicodedata.category(character) in ("Cc", "Cs") for character in value):
            self.fail(field, "must not contain control characters")
        return value

    def number(self, field: str, value: int, low: int, high: int) -> int:
        """A whole number from `low` to `high`."""
        if not low <= value <= high:
            self.fail(field, f"is {value}, must be {low} to {high}" if high < ID_MAX else f"is {value}, must be > 0")
        return value

    def count(self, field: str, number: int, high: int) -> None:
        """A list of 1 to `high` elements. Raises: InvalidRequest, where there are more: nobody looks at each."""
        if not 1 <= number <= high:
            self.fail(field, f"has {number} elements, must have 1 to {high}")
        if number > high:
            self.done()

    def done(self) -> None:
        """Raises: InvalidRequest, if anything was wrong."""
        if self.violations:
            raise InvalidRequest(self.violations)
