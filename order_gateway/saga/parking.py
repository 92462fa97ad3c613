"""PURE: which steps are parked: those that fail again and again for a reason that waiting does not mend.

A parked step is tried only now and then, is counted apart, and shown to admins, who can have it tried at once. It is
never given up: its order could not end in agreement with the warehouse then.
"""

from datetime import timedelta

from order_gateway.lifecycle import Step

PARKABLE = frozenset({Step.COMMIT, Step.CANCEL, Step.REFUND, Step.GIVE_BACK})
"""The others have a deadline, after which their order is cancelled."""
MENDED_BY_WAITING = frozenset(
    {
        "WAREHOUSE_UNAVAILABLE",
        "WAREHOUSE_TIMEOUT",
        "WAREHOUSE_OVERLOADED",
        "WAREHOUSE_BUSY",
        # Not the step's fault: once the key is good again, all of them go on at once.
        "WAREHOUSE_DENIED",
    }
)
MENDED_BY_WAITING_AS_A_RULE = frozenset({"PAYMENT_PENDING"})


def is_parked(step: Step, code: str, attempts: int, age: timedelta, *, tries: int, patience: timedelta) -> bool:
    """Whether a step that has failed is parked.

    Args:
        code: of the last failure; empty for one that nobody foresaw.
        age: how long the step has been open.
        tries: how often a step is tried that fails for a reason of its own.
        patience: how long one may take whose reason should go away.
    """
    if step not in PARKABLE or code in MENDED_BY_WAITING:
        return False
    if code in MENDED_BY_WAITING_AS_A_RULE:
        return age >= patience
    return attempts >= tries
