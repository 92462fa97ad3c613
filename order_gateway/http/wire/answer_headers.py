"""What every answer carries; see service_kit."""

from service_kit.answer_headers import securing

secure = securing("order-service")
"""Add to the headers of an answer what it must have."""
