"""A plain function that needs a processor, and can be stopped: it runs in a process of the worker's pool.

WORKER_HANDLER=process:in_a_process:handle trio-worker run
"""

from __future__ import annotations

from trio_worker import PlainContext, Query, QueryFailed


def handle(query: Query, ctx: PlainContext) -> str:
    """Say how many primes there are below a number, and go on after a crash where it stopped."""
    if not query.query_text.isdecimal():
        raise QueryFailed("Below which number? Please write nothing but it.")
    most = int(query.query_text)
    done, count = ctx.saved or (1, 0)
    for number in range(done + 1, most):
        count += all(number % divisor for divisor in range(2, int(number**0.5) + 1))
        if number % 100_000 == 0:
            ctx.log(f"{count} primes up to {number}")
            ctx.save([number, count])
    return f"There are {count} primes below {most}."
