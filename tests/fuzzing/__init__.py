"""Random and mutated requests against real processes: `make fuzz`, and in short a test of its own.

    make fuzz FUZZ_REQUESTS=1000000     # or FUZZ_SECONDS=1700; FUZZ_RATE=600 a second, FUZZ_SEED to repeat a run

What is sent, all at once: HTTP from the service's document and mutated bytes of it; schemathesis' cases, good and bad
ones (a twentieth of all: it makes about 130 a second with a whole processor); gRPC from the descriptors and mutated
messages; raw frames of HTTP/2, whose answers are read, too. At the warehouse's door some show a right key of any
role, some a wrong one, two, or none.

While it runs it shows how many were sent, the share of what is wanted, the rate, and the memory of both services. At
the end it tells what was answered, the memory early on and at the end, what a request costs, and the 50th, 90th and
99th percentile of the latency of a polite caller, one that does nothing wrong and waits a moment between its calls.
Found, and so a failure, is:

- an answer that is 500, INTERNAL or UNKNOWN (but for those with which gRPC's core answers what is no gRPC; they are a
  closed list in frame_answers.py), or that the key which was shown does not entitle to;
- a line in a log that nobody foresaw, or with a secret in it; a service that died or has grown by more than 150 MiB;
- a polite caller who is refused, or whose p99 beside the attack is more than 5 times that without it;
- requests of the attack that cost on average more than half the processor time of a polite call.

"Without it" is measured in two ways, for 30 s before the attack and 30 s after it (some 2400 calls in all, so that a
p99 rests on two dozen), and both ratios are judged, by the same bound:

- alone, with nothing else running: this is what was promised, that somebody who does nothing wrong waits no more than
  5 times as long while others attack. It is the stricter one, since all of it runs on one machine: what the senders
  take of the processors counts as if the services had done it (so they step back, nice 19).
- beside the generator only: the same requests are made at the same rate and sent to a process that takes and forgets
  them. This ratio tells how much of it is the services' doing: if only the first one is over the bound, it is the
  machine that is too small for both, and the run says nothing about the services.

Why there is a rate:

- Senders that ask anew as soon as they have an answer keep 15 requests waiting, whatever a service can do: the faster
  it is, the more they ask, and whoever comes along waits behind them (20 to 80 ms, on two processors). That measures
  where a process is full, not whether a request of an odd kind costs others more than it should: measured one by one,
  the requests took the gateway 1 ms on average and 6 ms in the 99th percentile, and none of the odd ones stood out.
  What keeps one caller from filling a process are its rate and shares, and these are switched off here, since all
  that is sent comes from one address with one key. How they keep callers apart is measured by `python -m
  tests.attacks` instead.
- So the attack goes at a rate (FUZZ_RATE), about half of what two processors answer at the most. Sent faster, p99
  grows as that of every queue does. FUZZ_RATE=0 sends as fast as may be; then the latency is shown but not judged.

The short form (tests/attacks/test_fuzz_short.py) runs where others are busy, too: it judges the median beside nothing,
by a bound of 8, and the processor time by the same half; outcome.py says why.
"""
