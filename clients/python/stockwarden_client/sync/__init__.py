"""The client whose calls block; see `SyncWarehouseClient`. All but `running` is made by tools/sync_client.py."""
