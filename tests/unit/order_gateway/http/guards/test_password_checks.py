"""Checks of passwords, which anybody may ask for, take turns behind everything else."""

import asyncio
import os
import threading

import pytest
from argon2 import PasswordHasher, extract_parameters
from argon2.exceptions import VerifyMismatchError

from order_gateway.access import DEVELOPMENT_USERS
from order_gateway.http.guards.tokens import PASSWORD_CHECKS_MAX, PASSWORD_CHECKS_NICE, Tokens
from tests.kits.gateway_settings import SECRET, settings


async def test_they_step_back_and_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = Tokens(settings(profile="development", jwt_secret=SECRET, api_keys=[], users=DEVELOPMENT_USERS))
    priorities, at_once, most = set[int](), 0, 0
    ours = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    def verify(_hash: str, _password: str) -> bool:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        priorities.add(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        at_once -= 1
        return True

    monkeypatch.setattr(tokens, "_verify", verify)
    await asyncio.gather(*(tokens.log_in("customer", "customer") for _ in range(20)))
    assert priorities == {PASSWORD_CHECKS_NICE}
    assert most <= PASSWORD_CHECKS_MAX
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == ours


def test_a_name_that_nobody_has_costs_what_a_real_one_costs() -> None:
    hasher = PasswordHasher()
    tokens = Tokens(settings(profile="development", jwt_secret=SECRET, api_keys=[], users=DEVELOPMENT_USERS))
    real = extract_parameters(hasher.hash("customer"))
    assert extract_parameters(tokens._nobody) == real
    with pytest.raises(VerifyMismatchError):
        hasher.verify(tokens._nobody, "customer")
