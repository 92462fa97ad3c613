"""The states that an order can be in."""

from collections import deque

from order_gateway.lifecycle import NEW, Event, State, Transition, advance


def reachable() -> list[State]:
    """All states that events lead to, one after the other."""
    seen, queue = {NEW}, deque([NEW])
    while queue:
        state = queue.popleft()
        for event in Event:
            result = advance(state, event)
            if isinstance(result, Transition) and result.state not in seen:
                seen.add(result.state)
                queue.append(result.state)
    return sorted(seen, key=str)


REACHABLE = reachable()
