"""Called by Alembic."""

from service_kit.database.migrating import run_environment

run_environment()
