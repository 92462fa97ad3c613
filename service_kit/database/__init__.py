"""The database door: connections, transactions that are tried again, packets, statements over JSON, migrations.

Imports the rest of `service_kit`, but neither the batcher nor what waits for stuck rows.
"""
