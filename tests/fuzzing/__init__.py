"""Random and mutated requests against real processes: `make fuzz`, and in short a test of its own.

    make fuzz FUZZ_REQUESTS=1000000     # or FUZZ_SECONDS=1700; FUZZ_RATE=600 a second, FUZZ_SEED to repeat a run

While it runs it shows how many were sent, the share of what is wanted, the rate, and the memory of both services. At
the end it tells what was answered, the memory early on and at the end, and the 50th and 99th percentile of the
latency of a polite caller, one that does nothing wrong and waits a moment between its calls. Found, and so a failure,
is:

- an answer that is 500, INTERNAL or UNKNOWN, a line in a log that nobody foresaw, a service that died or has grown by
  more than 150 MiB, a polite caller who is refused;
- a polite caller whose p99 beside the attack is more than 5 times that without it.

What "without it" means, and why there is a rate:

- All of it runs on one machine: the senders, both services, their database and the polite caller. What the senders
  take of the processors is not the services' doing, so it is in both figures: "beside the generator only" is measured
  while the same requests are made at the same rate and sent to a process that takes and forgets them. The senders
  step back besides (nice 19). The figure with nothing else running is shown, too.
- Senders that ask anew as soon as they have an answer keep 15 requests waiting, whatever a service can do: the faster
  it is, the more they ask, and whoever comes along waits behind them (20 to 80 ms, on two processors). That measures
  where a process is full, not whether a request of an odd kind costs others more than it should: measured one by one,
  the requests took the gateway 1 ms on average and 6 ms in the 99th percentile, and none of the odd ones stood out.
  What keeps one caller from filling a process are its rate and shares, and these are switched off here, since all
  that is sent comes from one address with one key. How they keep callers apart is measured by `python -m
  tests.attacks` instead.
- So the attack goes at a rate (FUZZ_RATE), about half of what two processors answer at the most. Sent faster, p99
  grows as that of every queue does. FUZZ_RATE=0 sends as fast as may be; then the latency is shown but not judged.
"""
