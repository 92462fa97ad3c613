"""What the warehouse and the order gateway share, and nothing else does."""
