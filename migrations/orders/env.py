"""Called by Alembic."""

from service_kit.migrating import run_environment

run_environment()
