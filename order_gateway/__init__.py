"""The order service: an HTTP facade whose orders always end in agreement with the warehouse."""
