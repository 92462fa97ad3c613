"""The HTTP facade of the order service."""
