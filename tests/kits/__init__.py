"""What several tests share: processes, databases, doubles of the outside, builders. No test stands here."""
