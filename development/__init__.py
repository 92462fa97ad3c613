"""What runs on a developer's machine: `make run`, private database servers, processes that are looked after.

Imports `service_kit` only, and starts the services as processes. No production code imports this.
"""
