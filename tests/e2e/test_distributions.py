"""What people install: both distributions, in environments of their own, outside of the checkout.

The services run in one environment on a real database; from two others, with the oldest and the newest libraries that
the client takes, stock is held: by a script of coroutines, by a Flask app, and by the examples of the documents.
"""

import json
import re
import shutil
import subprocess
import sys
import textwrap
import tomllib
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from sqlalchemy.engine import make_url

from development.free_ports import free_port
from development.service_process import ServiceProcess, grpc_is_serving, http_answers
from tests.conftest import MakeDatabase
from tests.kits.installed import Environment, Wheels, build, environment, pins
from tests.kits.processes import ROOT
from tests.kits.warehouse_kit import sql

pytestmark = pytest.mark.e2e
OURS = ("warehouse", "order_gateway", "service_kit", "generated", "migrations")
CLIENT = ROOT / "clients" / "python"


class Shop(NamedTuple):
    """Both services, installed and running."""

    target: str
    base_url: str
    database_url: str


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("installed")
    assert not place.is_relative_to(ROOT)
    return place


@pytest.fixture(scope="module")
def wheels(folder: Path) -> Wheels:
    return build(folder / "dist")


@pytest.fixture(scope="module")
def services(folder: Path, wheels: Wheels) -> Environment:
    """Where the services are installed, beside modules of the shop's own that have the names of our folders."""
    place = folder / "services"
    place.mkdir()
    made = Environment(place)
    made.install([wheels.stockwarden, wheels.client], options=["--constraint", str(pins(place)), "--compile-bytecode"])
    for name in OURS:
        (made.site_packages / f"{name}.py").write_text("raise AssertionError('the shop has one of its own')\n")
    return made


@pytest.fixture(scope="module")
def oldest(folder: Path, wheels: Wheels) -> Environment:
    """With the oldest libraries that the client says it takes."""
    place = folder / "oldest"
    place.mkdir()
    made = Environment(place)
    needed = tomllib.loads((CLIENT / "pyproject.toml").read_text())["project"]["dependencies"]
    made.install([wheels.client], *needed, options=["--resolution", "lowest-direct"])
    return made


@pytest.fixture(scope="module")
def newest(folder: Path, wheels: Wheels) -> Environment:
    """With the newest, Flask, and what tells a type checker what a message is."""
    place = folder / "newest"
    place.mkdir()
    made = Environment(place)
    made.install([wheels.client], "flask", "stockwarden-client[types]")
    return made


@pytest.fixture(scope="module")
def shop(services: Environment, make_database: MakeDatabase) -> Iterator[Shop]:
    """The services with databases that their own commands have made, and the demo catalogue."""
    made = make_url(make_database("warehouse"))
    urls = [made.set(database=f"{made.database}_{name}").render_as_string(hide_password=False) for name in ("w", "o")]
    target, listen = (f"127.0.0.1:{free_port()}" for _ in range(2))
    settings = {
        "WAREHOUSE_DATABASE_URL": urls[0],
        "WAREHOUSE_LISTEN": target,
        "ORDERS_DATABASE_URL": urls[1],
        "ORDERS_LISTEN": listen,
        "ORDERS_WAREHOUSE_TARGET": target,
        "ORDERS_PROFILE": "development",
    }
    command = services.command("stockwarden")
    base_url = f"http://{listen}/api/v1"
    migrate_warehouse, serve_warehouse, migrate_orders, serve_orders = commands_of_the_readme()
    for migrate in (migrate_warehouse, migrate_orders):
        services.run(command, *migrate, settings=settings)
    warehouse = _process(services, serve_warehouse, lambda: grpc_is_serving(target), settings)
    orders = _process(services, serve_orders, lambda: http_answers(f"{base_url}/health"), settings)
    try:
        warehouse.start()
        orders.start()
        services.run(command, "warehouse", "load-demo", "--target", target, settings=settings)
        yield Shop(target, base_url, urls[0])
        for service in ("warehouse", "orders"):
            services.run(command, service, "audit", settings=settings)
    finally:
        orders.stop()
        warehouse.stop()
        for url in urls:
            sql(made.render_as_string(hide_password=False), f"DROP DATABASE IF EXISTS {make_url(url).database}")


def _process(
    services: Environment, arguments: list[str], is_healthy: object, settings: dict[str, str]
) -> ServiceProcess:
    assert callable(is_healthy)
    return ServiceProcess(
        arguments[0],
        [services.command("stockwarden"), *arguments],
        is_healthy=is_healthy,
        environment=environment(settings),
        log_path=services.folder / f"{arguments[0]}.log",
        directory=services.folder,
    )


def commands_of_the_readme() -> list[list[str]]:
    """The arguments that README says `stockwarden` is called with."""
    [lines] = re.findall(r"```sh\npip install dist/\*\.whl\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    commands = [line.split() for line in lines.splitlines()]
    assert {command[0] for command in commands} == {"stockwarden"}
    return [command[1:] for command in commands]


def held(shop: Shop, order_id: str) -> int:
    """How many holds an order has."""
    return len(sql(shop.database_url, f"SELECT 1 FROM reservations WHERE order_id = '{order_id}'"))


def test_the_wheels_have_every_module_and_nothing_under_another_name(wheels: Wheels) -> None:
    expected = {f"stockwarden/{name}" for name in _modules(*OURS[:3], "migrations")} | _modules("stockwarden")
    assert _content(wheels.stockwarden) == expected | {"stockwarden/order_gateway/payments/provider_openapi.yaml"}
    generated = {f"stockwarden_client/v1/{path.name}" for path in (ROOT / "generated/warehouse/v1").glob("*.py*")}
    hand_made = {
        str(path.relative_to(CLIENT)) for path in (CLIENT / "stockwarden_client").rglob("*.py") if path.is_file()
    }
    assert _content(wheels.client) == hand_made | generated | {"stockwarden_client/py.typed"}
    assert len(wheels.sources) == 2


def _modules(*folders: str) -> set[str]:
    return {str(path.relative_to(ROOT)) for folder in folders for path in (ROOT / folder).rglob("*.py")}


def _content(wheel: Path) -> set[str]:
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


def test_what_the_services_import_is_installed_with_them(services: Environment, shop: Shop) -> None:
    """With modules of the shop's own beside them, under the names that our folders have in the checkout."""
    names = services.output(
        "-c",
        "import sys, stockwarden.warehouse.__main__, stockwarden.order_gateway.__main__\n"
        "print(*(name for name in sys.modules if name.partition('.')[0] in sys.argv[1:]))\n"
        f"print(*(m.__file__ for m in sys.modules.values() if {str(ROOT)!r} in str(getattr(m, '__file__', ''))))",
        *OURS,
    )
    of_the_shop, *of_the_checkout = names.split("\n")
    assert of_the_shop == ""
    borrowed = str(Path(sys.prefix))
    assert [path for path in " ".join(of_the_checkout).split() if not path.startswith(borrowed)] == []
    assert services.run(services.command("stockwarden"), "--version").strip() == "0.1.0"
    assert "run `stockwarden warehouse migrate`" in _refused(services, shop)


def _refused(services: Environment, shop: Shop) -> str:
    nowhere = make_url(shop.database_url).set(database="nobody_has_made_it").render_as_string(hide_password=False)
    done = subprocess.run(
        [services.command("stockwarden"), "warehouse", "serve"],
        env=environment({"WAREHOUSE_DATABASE_URL": nowhere, "WAREHOUSE_LISTEN": f"127.0.0.1:{free_port()}"}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3
    return done.stderr


def test_a_script_of_coroutines_holds_stock_with_the_oldest_libraries(oldest: Environment, shop: Shop) -> None:
    """And with stubs that the shop has made itself from the same protos, as a package that is called `warehouse`."""
    shutil.copytree(ROOT / "generated" / "warehouse", oldest.folder / "warehouse")
    (oldest.folder / "script.py").write_text(
        textwrap.dedent("""
            import asyncio, sys
            from warehouse.v1 import warehouse_pb2 as own
            import google.protobuf
            from stockwarden_client import ClientSettings, InsufficientStock, WarehouseClient, line

            async def main():
                async with WarehouseClient(ClientSettings(target=sys.argv[1])) as warehouse:
                    lines = [line(1, 1, 2), own.Line(product_id=2, warehouse_id=1, quantity=1)]
                    hold = await warehouse.reserve("script", lines, ttl_seconds=900, request_id="script")
                    try:
                        await warehouse.reserve("much", [line(1, 1, 10_000)], request_id="much")
                    except InsufficientStock as refusal:
                        print(refusal.shortages[0].requested, await warehouse.is_serving())
                    await warehouse.commit(reservation_id=hold.reservation_id)
                    print(own.Line is type(lines[0]), google.protobuf.__version__)

            asyncio.run(main())
        """)
    )
    said = oldest.output("script.py", shop.target).split("\n")
    assert said[0] == "10000 True"
    assert said[1].startswith("True ")
    assert oldest.is_borrowing or said[1].split()[1].startswith("6.30.")
    assert held(shop, "script") == 1


def test_a_flask_app_holds_stock(newest: Environment, shop: Shop) -> None:
    if newest.is_borrowing:
        pytest.skip("Flask can't be downloaded here")
    (newest.folder / "app.py").write_text(
        textwrap.dedent("""
            import os
            from flask import Flask, request
            from stockwarden_client import ClientSettings, InsufficientStock, SyncWarehouseClient, line

            app = Flask(__name__)
            warehouse = SyncWarehouseClient(ClientSettings(target=os.environ["WAREHOUSE"]))

            @app.post("/holds/<order_id>")
            def hold(order_id):
                try:
                    taken = warehouse.reserve(order_id, [line(3, 1, request.json["quantity"])], request_id=order_id)
                except InsufficientStock as refusal:
                    return {"available": refusal.shortages[0].available}, 409
                return {"reservation": taken.reservation_id}, 201

            @app.get("/health")
            def health():
                return {"serving": warehouse.is_serving()}
        """)
    )
    port = free_port()
    app = ServiceProcess(
        "flask",
        [newest.command("flask"), "--app", "app", "run", "--port", str(port)],
        is_healthy=lambda: http_answers(f"http://127.0.0.1:{port}/health"),
        environment=environment({"WAREHOUSE": shop.target}),
        log_path=newest.folder / "flask.log",
        directory=newest.folder,
    )
    try:
        app.start()
        assert _posted(f"http://127.0.0.1:{port}/holds/flask", 2).keys() == {"reservation"}
        assert _posted(f"http://127.0.0.1:{port}/holds/flask", 2).keys() == {"reservation"}
        assert held(shop, "flask") == 1
        assert _posted(f"http://127.0.0.1:{port}/holds/greedy", 10_000) == {"available": 98}
    finally:
        app.stop()


def _posted(url: str, quantity: int) -> dict[str, object]:
    request = urllib.request.Request(
        url, json.dumps({"quantity": quantity}).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            found: dict[str, object] = json.load(answer)
    except urllib.error.HTTPError as refusal:
        found = json.load(refusal)
    return found


TYPED = """
from stockwarden_client import ClientSettings, SyncWarehouseClient, WarehouseClient, WarehouseError, line

async def holding(warehouse: WarehouseClient) -> str:
    hold = await warehouse.reserve("17", [line(1, 1, 2)], ttl_seconds=900, request_id="r", actor="me")
    results = await warehouse.batch_reserve([])
    return hold.reservation_id + str([result for result in results if isinstance(result, WarehouseError)])

def blocking(warehouse: SyncWarehouseClient) -> int:
    with warehouse:
        quantities: list[int] = [line.quantity for line in warehouse.get_reservation("r").lines]
        return warehouse.get_inventory(1, 1).available

settings = ClientSettings(target="127.0.0.1:50051", deadline_seconds=3)
"""
WRONG = """
async def without_its_request_id(warehouse: WarehouseClient) -> None:
    await warehouse.reserve("17", [])

def with_an_option_that_there_is_not(warehouse: SyncWarehouseClient) -> None:
    warehouse.get_inventory(1, 1, dedline_seconds=3)
"""
WRONG_IN_MESSAGES = """
async def waiting_where_nothing_waits(warehouse: SyncWarehouseClient) -> None:
    await warehouse.get_inventory(1, 1)

def with_a_field_that_there_is_not(warehouse: SyncWarehouseClient) -> None:
    warehouse.get_inventory(1, 1).availible
"""
"""Found with types-protobuf, which `stockwarden-client[types]` brings; without it a message may be anything."""


@pytest.mark.parametrize("name", ["oldest", "newest"])
def test_a_users_module_is_checked_strictly(name: str, request: pytest.FixtureRequest) -> None:
    installed: Environment = request.getfixturevalue(name)
    assert _mypy(installed, "right", TYPED) == []
    assert len(_mypy(installed, "wrong", TYPED + WRONG)) == 2
    found = _mypy(installed, "wrong_in_messages", TYPED + WRONG_IN_MESSAGES)
    assert len(found) == (0 if name == "oldest" and not installed.is_borrowing else 2), found


def _mypy(installed: Environment, name: str, module: str) -> list[str]:
    (installed.folder / f"{name}.py").write_text(module)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file", "", "--cache-dir", "mypy-cache",
         "--python-executable", str(installed.python), f"{name}.py"],
        cwd=installed.folder,
        env=environment({}),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )  # fmt: skip
    assert not done.stderr, done.stderr
    return [line for line in done.stdout.splitlines() if ": error:" in line]


@pytest.mark.parametrize("document", ["README.md", "clients/python/README.md"])
def test_the_examples_of_the_documents_hold_stock(document: str, newest: Environment, shop: Shop) -> None:
    examples = re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        assert "127.0.0.1:50051" in example
        code = example.replace("127.0.0.1:50051", shop.target)
        if "await " in code:
            imports, _, body = code.partition("\n\n")
            code = (
                f"import asyncio\n{imports}\nasync def main():\n{textwrap.indent(body, '    ')}\nasyncio.run(main())\n"
            )
        newest.output("-c", code)
        [order_id] = re.findall(r'reserve\("([^"]+)"', example)
        assert held(shop, order_id) == 1
