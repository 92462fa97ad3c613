"""Random and mutated requests against real processes: `make fuzz`, and in short a test of its own."""
