"""The page at /swagger/ in a real browser: it shows the API, asks nobody but the gateway, and can try an operation."""

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support import expected_conditions as conditions
from selenium.webdriver.support.wait import WebDriverWait

from tests.kits.processes import DEVELOPMENT_API_KEY, Processes
from warehouse.demo import load_demo

pytestmark = pytest.mark.e2e
PATIENCE_SECONDS = 30
HOST = "orders.test"
"""Not localhost, where a page may behave better than elsewhere; only this browser knows it."""
OVER_THE_NETWORK = frozenset({"http", "https", "ws", "wss"})
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--window-size=1280,1000"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    f"--host-resolver-rules=MAP {HOST} 127.0.0.1",
)
ORDER = {
    "user_id": 7,
    "shipping_address": "Street 1",
    "payment_method": "card",
    "items": [{"product_id": 1, "warehouse_id": 1, "quantity": 2}],
}


class Page:
    """What a person does with the page."""

    def __init__(self, browser: Chrome) -> None:
        self.browser = browser

    def shown(self, selector: str) -> WebElement:
        """The element, once it can be seen and used."""
        ready = conditions.element_to_be_clickable((By.CSS_SELECTOR, selector))
        found: WebElement = WebDriverWait(self.browser, PATIENCE_SECONDS).until(ready, selector)
        return found

    def click(self, selector: str) -> None:
        element = self.shown(selector)
        # Not by its place on the screen, where something else may lie while the page unfolds.
        self.browser.execute_script("arguments[0].click()", element)

    def authorise(self) -> None:
        self.click(".auth-wrapper .btn.authorize")
        self.shown(".modal-ux input#api_key_value").send_keys(DEVELOPMENT_API_KEY)
        self.click(".modal-ux .auth-btn-wrapper button[type=submit]")
        self.click(".modal-ux .btn-done")

    def try_out(self, operation: str, body: object = None) -> tuple[str, Any]:
        """Execute an operation with `body`; the status and the answer that are shown."""
        block = f"#operations-{operation}"
        self.click(f"{block} .opblock-summary-control")
        self.click(f"{block} .try-out__btn")
        if body is not None:
            area = self.shown(f"{block} textarea.body-param__text")
            area.clear()
            area.send_keys(json.dumps(body))
        self.click(f"{block} .execute")
        live = f"{block} .live-responses-table tbody"
        answer = self.shown(f"{live} .response-col_description code").text
        return self.shown(f"{live} .response-col_status").text, json.loads(answer)

    def asked(self) -> set[str]:
        """The hosts that the browser sent requests to for this page."""
        events = [json.loads(entry["message"])["message"] for entry in self._log("performance")]
        sent = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
        return {urlsplit(url).netloc for url in sent if urlsplit(url).scheme in OVER_THE_NETWORK}

    def complaints(self) -> list[str]:
        """What the browser's console says is wrong."""
        return [entry["message"] for entry in self._log("browser") if entry["level"] == "SEVERE"]

    def _log(self, kind: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.browser.get_log(kind)  # type: ignore[no-untyped-call]
        return found


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    assert program, "no chromium here: run tools/setup tests"
    assert driver, "no chromedriver here: run tools/setup tests"
    options = ChromeOptions()
    options.binary_location = program
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'browser'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    with Chrome(options, ChromeService(driver)) as browser:
        yield Page(browser)


def test_the_page_shows_the_api_and_tries_it(
    page: Page, processes: Processes, warehouse_database_url: str, orders_database_url: str
) -> None:
    _process, target = processes.warehouse(warehouse_database_url)
    asyncio.run(load_demo(target, ""))
    names = {"ORDERS_HOST_NAMES": json.dumps([HOST])}
    _process, base_url = processes.order_gateway(orders_database_url, target, settings=names)
    address = f"{HOST}:{urlsplit(base_url).port}"

    page.browser.get(f"http://{address}/swagger/")
    page.shown("#operations-orders-post_orders")
    listed = page.browser.find_elements(By.CSS_SELECTOR, ".opblock")
    assert len(listed) >= 30

    page.authorise()
    status, answer = page.try_out("orders-post_orders", ORDER)
    assert (status, answer["data"]["status"]) == ("201", "pending")
    status, answer = page.try_out("orders-get_orders")
    assert (status, answer["meta"]["total"]) == ("200", 1)

    assert page.asked() == {address}
    assert page.complaints() == []

    assert (
        page.browser.execute_script("return localStorage.length + sessionStorage.length + document.cookie.length") == 0
    )
    page.browser.get("about:blank")
    page.browser.get(f"http://{address}/swagger/")
    status, answer = page.try_out("orders-get_orders")
    assert (status, answer["error"]["code"]) == ("401", "UNAUTHENTICATED")


def test_the_page_runs_nothing_that_is_not_its_own(page: Page, processes: Processes, orders_database_url: str) -> None:
    _process, base_url = processes.order_gateway(orders_database_url, "127.0.0.1:1")
    page.browser.get(f"http://127.0.0.1:{urlsplit(base_url).port}/swagger/")
    page.shown("#operations-orders-post_orders")
    ran = """
        const done = arguments[0];
        const script = document.createElement("script");
        script.textContent = "window.ran = true";
        document.body.append(script);
        const frame = document.createElement("iframe");
        frame.srcdoc = "<script>parent.ran = true</script>";
        document.body.append(frame);
        fetch("http://127.0.0.1:1/").catch(() => 0).then(() => setTimeout(() => done(window.ran === true), 200));
    """
    assert page.browser.execute_async_script(ran) is False
    assert any("Content Security Policy" in complaint for complaint in page.complaints())
