"""The rules that keep queries from being lost, broken one by one: ``python -m tests.mutations``.

Each break must make a test fail. The tests that ought to notice it run on a copy of the checkout in which it
is made; what nobody notices is printed, and is the exit code 1. `test_mutations.py` sees to it that each
break can still be made.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import attrs

ROOT = Path(__file__).parent.parent
LIMIT = 240.0  # seconds for the tests of one break; on a good day they take a few


@attrs.frozen
class Mutation:
    """One rule, broken.

    Attributes:
        rule: What must hold.
        file: Below ``trio_worker/``.
        old: What keeps to it; there once.
        new: What does not.
        tests: The files of tests that have to notice.
    """

    rule: str
    file: str
    old: str
    new: str
    tests: str

    def is_possible(self) -> bool:
        """Whether the code that is to be broken is there, once."""
        return (ROOT / "trio_worker" / self.file).read_text(encoding="utf-8").count(self.old) == 1


MUTATIONS = [
    # --- The journal -------------------------------------------------------------------------------
    Mutation(
        "the handler starts once its claim is on disk",
        "claims.py",
        "                await receipt.durable()\n",
        "                await trio.lowlevel.checkpoint()\n",
        "ill_disk crash_at_every_step",
    ),
    Mutation(
        "a claim that was sent is seen through",
        "claims.py",
        "trio.move_on_after(self.limit, shield=True)",
        "trio.move_on_after(self.limit, shield=False)",
        "stop bad_moments intake",
    ),
    Mutation(
        "the shield of a claim has a deadline",
        "claims.py",
        "trio.move_on_after(self.limit, shield=True)",
        "trio.CancelScope(shield=True)",
        "ill_disk intake",
    ),
    Mutation(
        "a result is on disk before it is reported",
        "delivery.py",
        "            await self._until_written()\n",
        "",
        "reporting crash_at_every_step",
    ),
    Mutation(
        "a receipt is settled after the commit",
        "journal_writer.py",
        "            await self._persist(statements, receipts)\n            self._is_writing",
        "            for receipt in receipts:\n                receipt.settle(None)\n"
        "            await self._persist(statements, receipts)\n            self._is_writing",
        "journal_writer",
    ),
    Mutation(
        "an attempt is counted before its handler starts",
        "consumer.py",
        "                await held.start().durable()\n",
        "                held.start()\n",
        "crash_at_every_step recovery retry_later",
    ),
    Mutation(
        "an ill disk closes the intake",
        "journal_writer.py",
        "        self.gate.close()\n",
        "",
        "journal_illness",
    ),
    Mutation(
        "a forked child gives up the lock",
        "state_folder.py",
        "os.register_at_fork(after_in_child=_forget_locks)",
        "",
        "state_folder",
    ),
    Mutation(
        "a program that a handler starts does not get the lock",
        "state_folder.py",
        "os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)",
        "os.dup(os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)); os.set_inheritable(descriptor, True)",
        "state_folder",
    ),
    # --- What was held -----------------------------------------------------------------------------
    Mutation(
        "nothing new is claimed before what was held is taken up",
        "recovery.py",
        "        self.gate.close()\n",
        "",
        "recovery",
    ),
    Mutation(
        "only a death while alone counts",
        "takeover.py",
        "entry.blamed += len(running) == 1 and not others",
        "entry.blamed += 1",
        "takeover recovery",
    ),
    Mutation(
        "suspects run one at a time",
        "backlog.py",
        "bool(self._ready or (self._suspects and not self._busy))",
        "bool(self._ready or self._suspects)",
        "backlog recovery",
    ),
    Mutation(
        "after the last attempt it fails",
        "recovery.py",
        "if held.entry.blamed >= self.most_attempts:",
        "if held.entry.blamed > self.most_attempts:",
        "recovery",
    ),
    Mutation(
        "what waits for a consumer at a stop is put back",
        "service.py",
        "        parts.recovery.release()\n",
        "",
        "recovery",
    ),
    # --- Ours ----------------------------------------------------------------------------------------
    Mutation(
        "a look comes before each report that is a retry",
        "delivery.py",
        "always=self._tried",
        "always=False",
        "reporting bad_moments",
    ),
    Mutation(
        "a look comes before a report that is late or follows a restart",
        "looks.py",
        "fresh = trio.current_time() - self._held.seen_at <= self._after",
        "fresh = True",
        "watch retry_later",
    ),
    Mutation(
        "a query of another database is not ours",
        "ownership.py",
        "    if _differ(claimed.query_created, now.query_created):\n        return Standing.OTHER_DATABASE\n",
        "",
        "ownership recovery",
    ),
    Mutation(
        "a later claim is not ours",
        "ownership.py",
        'now.status == "in_progress" and not _differ(claimed.query_started, now.query_started)',
        'now.status == "in_progress"',
        "ownership recovery",
    ),
    Mutation(
        "the watch stops what is not ours any more",
        "watch.py",
        "                deliveries.let_go(held, standing.value)",
        "                pass",
        "watch",
    ),
    Mutation(
        "an older claim of a query is let go",
        "reporting.py",
        '        self.let_go(older, "it was requeued, and claimed here again")\n',
        "",
        "watch retry_later recovery",
    ),
    # --- Put back, and claimed again -----------------------------------------------------------------
    Mutation(
        "what was put back does not begin at nothing",
        "delivery.py",
        "                self._written = self.held.bury()",
        "                pass",
        "put_back recovery",
    ),
    Mutation(
        "the first line of each claim leaves at once",
        "query_log.py",
        " and not self._is_first",
        "",
        "put_back",
    ),
    Mutation(
        "who stops takes nothing up",
        "recovery.py",
        "            if self._is_over:\n                return\n",
        "",
        "put_back",
    ),
    Mutation(
        "no handler starts on what was let go",
        "consumer.py",
        "        if held.is_over:\n",
        "        if False:\n",
        "put_back",
    ),
    Mutation(
        "a dead letter that is tried again still has its log",
        "journal.py",
        "entry.dead, entry.lines = None, on_disk[entry.id].lines",
        "entry.dead = None",
        "put_back",
    ),
    Mutation(
        "a dead letter hides no lost claim",
        "journal_file.py",
        " WHERE dead IS NULL",
        "",
        "lost_claims",
    ),
    Mutation(
        "what an earlier claim has said late hides no lost one",
        "parts.py",
        "            said_before=self.deliveries.said_before,\n",
        "",
        "put_back",
    ),
    Mutation(
        "a result is not reported without a look after a short trouble",
        "looks.py",
        " or not lasts",
        "",
        "reporting",
    ),
    Mutation(
        "who puts all aside takes not the whole queue",
        "parts.py",
        "                recovery.room,\n",
        "",
        "retry_later",
    ),
    # --- Programs and processes ----------------------------------------------------------------------
    Mutation(
        "a program is killed before its query is put back",
        "execution.py",
        "                    self.handler.kill(ctx)\n",
        "                    pass\n",
        "command_life",
    ),
    Mutation(
        "a program ends with a worker that is killed",
        "handlers/child.py",
        "            end_with(held, process.pid)\n",
        "",
        "command_life",
    ),
    Mutation(
        "half a secret is not shown where a process cuts",
        "handlers/pool.py",
        "return text if len(text) < MOST_ANSWER else masks.hide_in_beginning(text)",
        "return text",
        "pool",
    ),
    Mutation(
        "an answer counts though its process has died meanwhile",
        "handlers/pool_process.py",
        "                self._hear_last_words()\n",
        "",
        "pool",
    ),
    # --- Several processes ---------------------------------------------------------------------------
    Mutation(
        "Ctrl-C is for the parent of several processes alone",
        "cli/child.py",
        "                process_group=0,\n",
        "",
        "run_processes",
    ),
    Mutation(
        "the others hear of a process's death",
        "cli/supervisor.py",
        "            other.tell(LOOK_AROUND)\n",
        "            pass\n",
        "run_processes",
    ),
    Mutation(
        "a process that outstays the grace is killed",
        "cli/supervisor.py",
        "                    child.process.kill()\n",
        "                    pass\n",
        "run_processes",
    ),
    Mutation(
        "who takes another's place during a drain drains, too",
        "cli/supervisor.py",
        "        await child.drains.wait()\n        self.stop.drain()\n",
        "",
        "run_processes",
    ),
    Mutation(
        "it takes up first what that one has left",
        "cli/child.py",
        "        if self._is_settled:\n            self.tell(DRAIN)\n",
        "        self.tell(DRAIN)\n",
        "run_processes",
    ),
    Mutation(
        "a process ends when its parent was killed",
        "cli/run.py",
        "            member.follow_the_parent()\n",
        "",
        "run_processes",
    ),
    Mutation(
        "a process that never listens is ended",
        "cli/child.py",
        "else STARTS_WITHIN",
        "else 10**9",
        "run_processes",
    ),
    Mutation(
        "that a process is being started is said",
        "cli/child.py",
        'else "it is being started"',
        'else ""',
        "run_processes",
    ),
    Mutation(
        "a single process of several does not drain by itself",
        "cli/run.py",
        "                if not is_member:\n                    stop.drain()\n",
        "                stop.drain()\n",
        "run_processes",
    ),
    Mutation(
        "a wrong start beside a process that works does not end that",
        "cli/supervisor.py",
        "not self._begun and (",
        "child.index not in self._begun and (",
        "run_processes",
    ),
    Mutation(
        "a stop is said in a word, too",
        "cli/child.py",
        "        self.tell(STOP)\n",
        "",
        "run_processes",
    ),
    Mutation(
        "so is it known when the parent is gone",
        "cli/member.py",
        "        stop.ask()\n",
        "",
        "run_processes",
    ),
    Mutation(
        "a process that stands still is not taken for dead when too many wait for it",
        "neighbours.py",
        "== errno.ENOTCONN",
        "== errno.ENOENT",
        "neighbours",
    ),
    Mutation(
        "the status page shows all processes",
        "web/status_stream.py",
        "join({**self._heard.answers, ",
        "join({",
        "status_stream",
    ),
    # --- What models have used -----------------------------------------------------------------------
    Mutation(
        "what a model has used is on disk when the handler goes on",
        "desk.py",
        "        await self._while_at_work(self._held.written)\n",
        "",
        "token_usage",
    ),
    Mutation(
        "what a dead process knew of used tokens is taken over",
        "takeover.py",
        "            usages=list(usages.values()),\n",
        "",
        "token_usage",
    ),
    Mutation(
        "used tokens are not put down to another query that has the number now",
        "usage_shipping.py",
        "query.query_created == datetime.fromisoformat(usage.created)",
        "True",
        "token_usage",
    ),
    Mutation(
        "token usage that fails says nothing of WebBuddy",
        "calls.py",
        '_BESIDE = ("/" + LOGS, "/" + USAGE)',
        '_BESIDE = ("/" + LOGS,)',
        "token_usage",
    ),
    Mutation(
        "a WebBuddy without token usage is not asked each time",
        "usage_shipping.py",
        "        if trio.current_time() < self._missing_until:\n",
        "        if False:\n",
        "token_usage",
    ),
    Mutation(
        "token usage that is never saved holds up no other",
        "usage_shipping.py",
        "        self.journal.usages[usage.id] = self.journal.usages.pop(usage.id)\n",
        "        put_off.until = 0\n",
        "token_usage",
    ),
    Mutation(
        "token usage that is never saved is not tried each time another was",
        "usage_shipping.py",
        "put_off.until = trio.current_time() + put_off.repeats.pause(error)",
        "put_off.until = trio.current_time()",
        "token_usage",
    ),
    Mutation(
        "a WebBuddy that saves no token usage is left in peace",
        "usage_shipping.py",
        "return await self._wait(self._repeats.pause(error))",
        "return await self._wait(0.0)",
        "token_usage",
    ),
    Mutation(
        "a secret that a text's cut has divided does not show in token usage",
        "token_usage.py",
        "hide = masks.hide if len(text) < _MOST_GIVEN else masks.hide_in_beginning",
        "hide = masks.hide",
        "token_usage",
    ),
    Mutation(
        "what models have used is bounded on disk",
        "journal.py",
        "self._usage_size + usage.size > MOST_USAGE",
        "False",
        "token_usage",
    ),
    # --- The log -------------------------------------------------------------------------------------
    Mutation(
        "the log goes before the result",
        "delivery.py",
        "        if self._log_goes_first:\n            await self._ship(",
        "        if False:\n            await self._ship(",
        "reporting",
    ),
    Mutation(
        "a log that fails holds a result back for a minute at most",
        "delivery.py",
        "        elif self._fails_alone:\n            self._all",
        "        elif False:\n            self._all",
        "reporting",
    ),
    Mutation(
        "behind an outage the log is tried once more before a result goes without it",
        "delivery.py",
        "        elif self._fails_alone:\n            self._all",
        "        elif self._others_work:\n            self._all",
        "trouble",
    ),
    # --- What an operator is told ------------------------------------------------------------------
    Mutation(
        "the same trouble is said at most every ten minutes",
        "trouble.py",
        "        if is_known and now - self._said_at.get(about, -math.inf) < AGAIN:\n",
        "        if False:\n",
        "trouble",
    ),
    Mutation(
        "that claims get through again is noticed by the next one, whoever sends it",
        "intake.py",
        "        self._trouble.is_over()\n",
        "",
        "intake outage",
    ),
    Mutation(
        "no entry is sent twice after a crash",
        "delivery.py",
        "        self.held.log.skip_arrived(texts)\n",
        "",
        "recovery",
    ),
    Mutation(
        "the cap of entries is for all attempts",
        "held.py",
        "                earlier=entry.earlier,\n",
        "                earlier=0,\n",
        "recovery query_log",
    ),
    # --- What listens --------------------------------------------------------------------------------
    Mutation(
        "no client keeps its place for ever",
        "web/connections.py",
        "turn_over_at = max(oldest.taken_at, self._wanted_since) + TURN",
        "turn_over_at = math.inf",
        "connections abuse",
    ),
    Mutation(
        "only so many connections are served at once",
        "web/connections.py",
        "    most: int = MOST\n",
        "    most: int = 100_000\n",
        "besieged",
    ),
    Mutation(
        "one call that failed is no outage",
        "probes.py",
        "        if self.webbuddy.failed_at - failing_since > PATIENCE:\n",
        "        if True:\n",
        "readiness",
    ),
    Mutation(
        "figures are for those who have the token",
        "web/guard.py",
        "return path == LIVE_PATH or",
        'return path != "/readyz" or',
        "guard openapi",
    ),
    # --- Wake-ups, later, lost claims ----------------------------------------------------------------
    Mutation(
        "a wake-up is handed on",
        "wakeups.py",
        "        for _ in range(min(2, self._worth_asking)):\n",
        "        for _ in range(0):\n",
        "wakeups",
    ),
    # --- Many workers --------------------------------------------------------------------------------
    Mutation(
        "a push that nobody here is free for is passed on",
        "wakeups.py",
        "            self.pass_on(query_id)\n",
        "            pass\n",
        "sharing",
    ),
    Mutation(
        "whoever is not free gives a hint back",
        "sharing.py",
        "                self.bus.offer(hint)\n",
        "                pass\n",
        "sharing",
    ),
    Mutation(
        "a worker's own hints tell it nothing",
        "sharing.py",
        "            if hint.sender == self._me:\n",
        "            if False:\n",
        "sharing",
    ),
    Mutation(
        "a bus that repeats a worker's own hints without end is left alone now and then",
        "sharing.py",
        "                    await self.pulse.sleep(LONGEST_PAUSE)\n",
        "                    pass\n",
        "sharing",
    ),
    Mutation(
        "who became busy while it waited for a hint leaves it to others",
        "sharing.py",
        "self.bus.take(lambda: self.intake.is_free)",
        "self.bus.take(lambda: True)",
        "sharing",
    ),
    Mutation(
        "who became busy does not even read the pipe",
        "bus_pipe.py",
        "            if not wanted():  # all",
        "            if False:  # all",
        "bus_pipe",
    ),
    Mutation(
        "who became busy waits no longer at Redis than it has begun to",
        "bus_redis.py",
        "            if not wanted():\n",
        "            if False:\n",
        "bus_redis",
    ),
    Mutation(
        "a claim that failed hands its hints back",
        "sharing.py",
        "        for hint in self._unclaimed():\n            self.bus.offer(hint)\n",
        "",
        "sharing",
    ),
    Mutation(
        "what was claimed for ahead is not lost with a claim that fails",
        "sharing.py",
        "                self._note(hint)\n                self.wakeups.hinted",
        "                self.announced.add(hint.query)\n                self.wakeups.hinted",
        "sharing",
    ),
    Mutation(
        "more is claimed in a second than there are round trips in it",
        "sharing.py",
        "min(2 * self._window + 1, MOST_AHEAD) if found else 0",
        "0",
        "sharing",
    ),
    Mutation(
        "who has found nothing waits for the next answer",
        "sharing.py",
        "and self._ahead and not self._was_empty:",
        "and self._ahead:",
        "sharing",
    ),
    Mutation(
        "who is full, paused or in an outage waits for no hint",
        "sharing.py",
        "            await self.intake.free()\n",
        "            await trio.lowlevel.checkpoint()\n",
        "sharing",
    ),
    Mutation(
        "a backlog that nobody here is free for is passed on",
        "wakeups.py",
        "            if not self._ring() and not known:\n                self.pass_on(0)\n",
        "            self._ring()\n",
        "sharing wakeups many_workers",
    ),
    Mutation(
        "what was passed on is still expected here",
        "wakeups.py",
        "        self._expected += 1\n        self._push_unanswered = True\n",
        "        self._push_unanswered = True\n",
        "sharing wakeups",
    ),
    Mutation(
        "the pipe is bounded",
        "bus_pipe.py",
        "        fcntl.fcntl(descriptor, resize, 2 * max(MOST_HINTS * HINT.size, mmap.PAGESIZE))\n",
        "        pass\n",
        "buses bus_pipe",
    ),
    Mutation(
        "a pipe that is never empty has room",
        "bus_pipe.py",
        "resize, 2 * max(",
        "resize, max(",
        "bus_pipe",
    ),
    Mutation(
        "a pipe that could not be made smaller is cleared in one go",
        "bus_pipe.py",
        "LARGEST = 131_072\n",
        "LARGEST = MOST_HINTS * HINT.size\n",
        "bus_pipe",
    ),
    Mutation(
        "a file in the pipe's place is no pipe",
        "bus_pipe.py",
        "    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):\n",
        "    if False:\n",
        "bus_pipe",
    ),
    Mutation(
        "what others write into the pipe is worth a look, and no crash",
        "bus_pipe.py",
        " if len(data) == HINT.size else Hint(0, 0)",
        "",
        "bus_pipe",
    ),
    Mutation(
        "a Redis that is away is not tried at full speed",
        "bus_redis.py",
        "Backoff(first=0.5, most=10.0)",
        "Backoff(first=0.001, most=0.001)",
        "bus_redis",
    ),
    Mutation(
        "who is busy sees that Redis is back",
        "bus_redis.py",
        """                await trio.sleep(pauses.next())
                continue
            self._works("taking")
""",
        """                await trio.sleep(pauses.next())
                if not wanted():
                    return None
                continue
            self._works("taking")
""",
        "bus_redis",
    ),
    Mutation(
        "a silent Redis that takes connections is given up",
        "redis_line.py",
        "trio.move_on_after(ANSWER_SECONDS)",
        "trio.move_on_after(3600)",
        "bus_redis",
    ),
    Mutation(
        "what the operator's Redis says of a wrong password, he is told",
        "redis_line.py",
        "    return error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error.__cause__",
        "    return None",
        "bus_redis",
    ),
    Mutation(
        "one hint that finds nothing speaks for all behind it",
        "sharing.py",
        "if found is False and await self.bus.clear():",
        "if False:",
        "sharing",
    ),
    Mutation(
        "one that was claimed for ahead and finds nothing, too",
        "sharing.py",
        "if self._was_empty and self._unclaimed():",
        "if False:",
        "sharing",
    ),
    Mutation(
        "after the end the pipe's descriptor is left alone",
        "bus_pipe.py",
        "        if not self.is_open:",
        "        if False:",
        "bus_pipe",
    ),
    Mutation(
        "who puts a query back while idle claims it again",
        "wakeups.py",
        "        if not self._wake():\n            self.pass_on(0)\n",
        "        self.pass_on(0)\n",
        "wakeups",
    ),
    Mutation(
        "hints are taken one at a time",
        "wakeups.py",
        "            await answer.came.wait()\n",
        "            await trio.lowlevel.checkpoint()\n",
        "sharing",
    ),
    Mutation(
        "a hint in Redis is for one worker, and waits for it",
        "bus_redis.py",
        '(b"BRPOP", self._key',
        '(b"BLMOVE", self._key, self._key, b"RIGHT", b"LEFT"',
        "buses bus_redis",
    ),
    Mutation(
        "the list in Redis is bounded",
        "bus_redis.py",
        'b"%d" % (MOST_HINTS - 1)',
        'b"-1"',
        "bus_redis",
    ),
    Mutation(
        "the list in Redis ends by itself",
        "bus_redis.py",
        '(b"EXPIRE", self._key, b"%d" % KEPT_SECONDS)',
        '(b"PERSIST", self._key)',
        "bus_redis",
    ),
    Mutation(
        "two WebBuddys share one Redis",
        "bus_redis.py",
        'f"trio-worker:wakeups:{bare_url(webbuddy_url)}"',
        '"trio-worker:wakeups"',
        "buses bus_redis",
    ),
    Mutation(
        "what could not be sent is not sent late",
        "bus_redis.py",
        "                self._pending.clear()  # whoever",
        "                pass  # whoever",
        "bus_redis",
    ),
    Mutation(
        "hints go to Redis in batches",
        "bus_redis.py",
        "            await trio.sleep(BATCH_SECONDS)\n",
        "",
        "bus_redis",
    ),
    Mutation(
        "a Redis that is full is not well again until it has room",
        "bus_redis.py",
        'commands.insert(0, (b"LPUSH", self._key, *hints) if hints else probe)',
        'commands[:0] = [(b"LPUSH", self._key, *hints)] if hints else []',
        "bus_redis",
    ),
    Mutation(
        "Redis is tried again with nothing to be sent",
        "bus_redis.py",
        """                continue
            self._works("sending")
""",
        """                await self._gathered.wait()
                continue
            self._works("sending")
""",
        "bus_redis",
    ),
    Mutation(
        "what a worker puts back as it stops, others hear of",
        "bus_redis.py",
        "                await bus.send_the_rest()\n",
        "                await trio.lowlevel.checkpoint()\n",
        "bus_redis",
    ),
    Mutation(
        "a Redis that is frozen keeps nobody from stopping",
        "bus_redis.py",
        "trio.move_on_after(LAST_SECONDS, shield=True)",
        "trio.move_on_after(60, shield=True)",
        "bus_redis",
    ),
    Mutation(
        "a Redis that says at once that there is nothing is not asked at full speed",
        "bus_redis.py",
        "if answer is None and trio",
        "if False and trio",
        "bus_redis",
    ),
    Mutation(
        "a Redis that does not answer is given up",
        "redis_line.py",
        "trio.fail_after(seconds)",
        "trio.fail_after(3600)",
        "bus_redis",
    ),
    Mutation(
        "who stops waiting for a hint takes none any more",
        "redis_line.py",
        "                if not done:  # an",
        "                if done:  # an",
        "bus_redis",
    ),
    Mutation(
        "who is stopped while it connects to Redis is in no trouble",
        "redis_line.py",
        "                await trio.lowlevel.checkpoint_if_cancelled()",
        "                await trio.lowlevel.cancel_shielded_checkpoint()",
        "bus_redis",
    ),
    Mutation(
        "Redis' errors do not repeat the password",
        "redis_line.py",
        "text.replace(self._address.password, MASK)",
        "text.replace(self._address.password, self._address.password)",
        "bus_redis",
    ),
    Mutation(
        "what Redis does is no crash",
        "redis_line.py",
        "            except Exception as error:  # noqa",
        "            except TypeError as error:  # noqa",
        "bus_redis",
    ),
    Mutation(
        "a WORKER_BUS_URL is not repeated: its password is in it",
        "settings.py",
        """        example="redis://localhost:6379/0",
        otherwise=None,
        secret=True,
""",
        """        example="redis://localhost:6379/0",
        otherwise=None,
""",
        "settings bus_worker",
    ),
    Mutation(
        "a bus that is set is used",
        "bus_opening.py",
        """    if settings.bus is None:
        async with open_pipe_bus""",
        """    if True:
        async with open_pipe_bus""",
        "bus_worker",
    ),
    Mutation(
        "a bus that is away is no reason to take nothing, and is noted",
        "probes.py",
        '            "bus": lambda: self.bus.trouble,\n',
        "",
        "bus_worker",
    ),
    Mutation(
        "a bus that lies is asked less and less often",
        "sharing.py",
        "                await self.pulse.sleep(pauses.next())\n",
        "                pass\n",
        "sharing",
    ),
    Mutation(
        "a query that a hint has named shows no backlog",
        "sharing.py",
        "            self.announced.add(hint.query)\n",
        "            pass\n",
        "sharing",
    ),
    Mutation(
        "after a long outage nobody begins with all consumers at once",
        "intake.py",
        "            self._gentle_until = now + random.uniform(*GENTLE)  # noqa: S311\n",
        "            pass\n",
        "many_workers intake",
    ),
    Mutation(
        "other work in between is no end of an outage",
        "intake.py",
        "            self._outage = None\n",
        "            self._outage, self._outage_since = None, math.inf\n",
        "intake",
    ),
    Mutation(
        "a claim that is answered is the end of an outage",
        "intake.py",
        "        self._outage_since = math.inf\n\n    def _on_errand",
        "\n    def _on_errand",
        "intake",
    ),
    Mutation(
        "the pipe belongs to its user alone",
        "bus_pipe.py",
        "os.mkfifo(path, 0o600)",
        "os.mkfifo(path, 0o666)",
        "bus_pipe",
    ),
    Mutation(
        "a query can't be put aside for ever",
        "consumer.py",
        "        if count > most:\n",
        "        if False:\n",
        "retry_later",
    ),
    Mutation(
        "a lost claim is noted",
        "claims.py",
        "                if error.maybe_done:\n                    self._note_lost(began, error)\n",
        "",
        "lost_claims intake",
    ),
    Mutation(
        "a process notes on disk that it claims",
        "claims.py",
        "            await self.journal.claiming(self.webbuddy.server_now(), self.limit)\n",
        "            self.journal._claims[trio.lowlevel.current_task()] = 0.0\n",
        "lost_claims journal_claims crash_at_every_step",
    ),
    Mutation(
        "only what was claimed in a noted time may be lost",
        "lost_claims.py",
        "    return note.since - SLACK <= query.query_started.timestamp() <= note.until + SLACK",
        "    return True",
        "lost_claims",
    ),
    Mutation(
        "what a worker of this folder holds is not lost",
        "lost_claims.py",
        "            if suspect.query.id not in held:\n",
        "            if True:\n",
        "lost_claims",
    ),
    Mutation(
        "what has said something is not lost",
        "lost_claims.py",
        "        if heard_of:\n            return\n",
        "",
        "lost_claims",
    ),
    Mutation(
        "two looks are a minute apart",
        "lost_claims.py",
        "            if suspect.seen_at > old:\n                continue\n",
        "",
        "lost_claims",
    ),
    # --- The way to WebBuddy -------------------------------------------------------------------------
    Mutation(
        "what was surely not sent is sent again, and nothing else",
        "transport.py",
        "            except NotSentError:\n",
        "            except httpx.TransportError:\n",
        "transport connection",
    ),
    Mutation(
        "a connection on which something came unasked is not used again",
        "transport.py",
        "if now < end and connection.is_silent():",
        "if now < end:",
        "transport connection",
    ),
    Mutation(
        "an answer that never ends is given up",
        "answer_parser.py",
        "if len(self._body) > self._longest:",
        "if False:",
        "connection transport",
    ),
    Mutation(
        "fewer calls at once when WebBuddy has too much to do",
        "turns.py",
        "        self._aim(max(1, self.at_once // 2))\n",
        "        self._aim(self.at_once)\n",
        "turns webbuddy",
    ),
    # --- Handlers ------------------------------------------------------------------------------------
    Mutation(
        "an answer that came too late is none",
        "execution.py",
        "if self.deadline.scope.cancel_called or self.deadline.has_come():",
        "if self.deadline.scope.cancel_called:",
        "execution context context_desk bad_moments",
    ),
    Mutation(
        "the log goes out while the handler works",
        "reporting.py",
        "                self._later.append((trio.current_time() + GATHER, delivery))\n",
        "                pass\n",
        "reporting service query_log drain",
    ),
    # --- Operating -----------------------------------------------------------------------------------
    Mutation(
        "a loop that is late is no sign of life",
        "liveness.py",
        "            if seconds > TOLERANCE\n",
        "            if seconds > 1e9\n",
        "liveness",
    ),
    Mutation(
        "a worker that can not claim for a minute is not ready",
        "probes.py",
        "        if seconds <= PATIENCE:\n",
        "        if seconds <= 1e9:\n",
        "readiness",
    ),
    Mutation(
        "pushes that stop coming are noticed",
        "push_health.py",
        "            self._judge()\n",
        "            pass\n",
        "push_health",
    ),
    Mutation(
        "a token is wanted from whoever pushes",
        "web/guard.py",
        "        return _admits(self.push_token, headers)\n",
        "        return True\n",
        "guard push",
    ),
    Mutation(
        "a token is wanted from whoever looks",
        "web/guard.py",
        "return path == LIVE_PATH or _admits(self.admin_token, headers)",
        "return True",
        "guard",
    ),
    Mutation(
        "a paused worker takes nothing",
        "pause.py",
        "        self.gate.keep(open=not paused)\n",
        "        pass\n",
        "orders",
    ),
    Mutation(
        "a drain takes nothing new",
        "stop.py",
        "        self.asked.set()\n\n    def ask",
        "        pass\n\n    def ask",
        "stop orders drain",
    ),
    Mutation(
        "to an outage the queue's length adds no call",
        "queue_length.py",
        "        if not self.is_well():\n            return self.interval\n",
        "",
        "queue_length",
    ),
    Mutation(
        "what nobody reads is not asked for",
        "queue_length.py",
        "while alone and self._is_wanted:",
        "while alone:",
        "queue_length",
    ),
    Mutation(
        "one process of a folder shows the queue's length",
        "queue_length.py",
        "while alone and self._is_wanted:",
        "while self._is_wanted:",
        "queue_length",
    ),
    Mutation(
        "no old length of the queue is shown",
        "queue_length.py",
        "<= 2 * self.interval else None",
        "<= 1e9 else None",
        "queue_length",
    ),
    Mutation(
        "what is put back is offered to other workers",
        "delivery.py",
        "                self._all.put_back()\n",
        "",
        "scale_down",
    ),
    Mutation(
        "a loop at rest is not woken",
        "watchdog.py",
        "            if self.rest.is_on and look % WAKE_EACH:\n",
        "            if False:\n",
        "watchdog",
    ),
    # --- A language model ---
    Mutation(
        "with a wrong key or model a query is put aside",
        "handlers/chat/patience.py",
        "raise _later(ctx, self.sentences.misconfigured) from error",
        "raise",
        "chat",
    ),
    Mutation(
        "before the model has ever answered no query fails by a request that it does not take",
        "handlers/chat/model.py",
        "                    if self._has_answered:\n",
        "                    if True:\n",
        "chat",
    ),
    Mutation(
        "the check asks the model itself",
        "handlers/chat/inspection.py",
        "            await _first_word(model, tools)\n",
        "",
        "chat_settings",
    ),
    Mutation(
        "a model that is away is asked again for half of a query's time only",
        "handlers/chat/patience.py",
        "if trio.current_time() + pause > give_up:",
        "if False:",
        "chat",
    ),
    Mutation(
        "a model that hangs holds no query for longer than half of its time",
        "handlers/chat/patience.py",
        "with trio.CancelScope(deadline=moment) as waiting:",
        "with trio.CancelScope() as waiting:",
        "chat",
    ),
    Mutation(
        "nothing but what has not begun is asked for again",
        "handlers/chat/listener.py",
        '        if self.draft.has_begun:\n            return NoAnswer("broken_off"',
        '        if False:\n            return NoAnswer("broken_off"',
        "chat chat_stream",
    ),
    Mutation(
        "a stream that was cut is no answer",
        "handlers/chat/listener.py",
        "if problem is None and not self._is_over and reply.finish is None:",
        "if False:",
        "chat chat_stream",
    ),
    Mutation(
        "an error in the stream is no answer",
        "handlers/chat/listener.py",
        "if event.is_error or chunk.is_error:",
        "if False:",
        "chat chat_stream",
    ),
    Mutation(
        "an error in the stream is judged by its name, as one in a body is",
        "handlers/chat/complaint.py",
        "return next(given, None) or next(named, None)",
        "return next(given, None)",
        "chat_stream",
    ),
    Mutation(
        "a whole answer is kept, whatever becomes of its stream",
        "handlers/chat/listener.py",
        "        if not self._is_over and self.draft.finish is None:\n            self._problem = problem",
        "        if True:\n            self._problem = problem",
        "chat_stream",
    ),
    Mutation(
        "behind a whole answer not much is waited for",
        "handlers/chat/listener.py",
        "return math.inf if self.draft.finish is None else USAGE_SECONDS",
        "return math.inf",
        "chat_stream",
    ),
    Mutation(
        "an answer that its server has stopped is none",
        "handlers/chat/listener.py",
        "if problem is None and reply.finish in _STOPPED:",
        "if False:",
        "chat_stream",
    ),
    Mutation(
        "a stream has a greatest size",
        "handlers/chat/listener.py",
        "if self._count > MOST_OF_A_STREAM:",
        "if False:",
        "chat_stream",
    ),
    Mutation(
        "an event of a stream has a greatest size",
        "handlers/chat/events.py",
        "if self._in_line + self._in_data > MOST_OF_AN_EVENT:",
        "if False:",
        "chat_stream",
    ),
    Mutation(
        "an event without data is none",
        "handlers/chat/events.py",
        "            if data.strip():\n",
        "            if True:\n",
        "chat_stream",
    ),
    Mutation(
        "an answer of a model has a greatest size",
        "handlers/chat/draft.py",
        "self.size + self.thought > MOST_OF_A_REPLY or ",
        "",
        "chat_stream",
    ),
    Mutation(
        "parallel calls are told apart, whatever their index",
        "handlers/chat/draft.py",
        "(piece.id and last and piece.id != last.id)",
        "False",
        "chat_stream",
    ),
    Mutation(
        "what a model is told back can be read by its server",
        "handlers/chat/reply.py",
        'self.arguments if self.is_object else "{}"',
        "self.arguments",
        "chat_tools",
    ),
    Mutation(
        "what a model is sent can be encoded",
        "handlers/chat/model.py",
        "encodable(json.dumps(payload, ensure_ascii=False)).encode()",
        "json.dumps(payload, ensure_ascii=False).encode()",
        "chat chat_tools",
    ),
    Mutation(
        "the model's key is masked",
        "handlers/chat/opening.py",
        'if masks.know("CHAT_API_KEY", settings.api_key):',
        "if False:",
        "chat_settings",
    ),
    Mutation(
        "what a model sends to a tool is checked",
        "handlers/chat/tools.py",
        "forbid_unknown_fields=True",
        "forbid_unknown_fields=False",
        "chat_tools",
    ),
    Mutation(
        "a plain tool that hangs is counted with what was left behind",
        "execution.py",
        "thread = PlainThread(self.left_behind, handler",
        "thread = PlainThread(LeftBehind(), handler",
        "chat_tools",
    ),
    Mutation(
        "a plain tool that hangs does not hold the query beyond its time",
        "plain_thread.py",
        "abandon_on_cancel=True",
        "abandon_on_cancel=False",
        "chat_tools",
    ),
    Mutation(
        "threads that hang keep no other from its own",
        "plain_thread.py",
        "trio.CapacityLimiter(math.inf)",
        "trio.CapacityLimiter(1)",
        "chat_tools",
    ),
    Mutation(
        "a tool's call is in the query's log, whatever becomes of it",
        "handlers/chat/toolbox.py",
        "        finally:\n",
        "        except AssertionError:\n            raise\n        else:\n",
        "chat_tools",
    ),
    Mutation(
        "a tool that exits does not end the query",
        "handlers/chat/toolbox.py",
        "except (Exception, SystemExit, BaseExceptionGroup) as raised",
        "except Exception as raised",
        "chat_tools",
    ),
    Mutation(
        "the key of a model goes to nobody who can't prove who they are",
        "handlers/chat/model.py",
        "verify=route.context or ",
        "verify=False and ",
        "chat_way",
    ),
    Mutation(
        "a model is reached through the proxy of the environment",
        "handlers/chat/model.py",
        "        proxy=route.proxy,\n",
        "",
        "chat_way",
    ),
    Mutation(
        "a model's server that takes no connection is given up",
        "handlers/chat/model.py",
        "httpx.Timeout(None, connect=CONNECT_SECONDS)",
        "httpx.Timeout(None)",
        "chat_way",
    ),
    Mutation(
        "a model has to answer in the end",
        "handlers/chat/agent.py",
        "reply = await self._ask(messages, (), progress)",
        "reply = await self._ask(messages, self.tools.schemas, progress)",
        "chat_tools",
    ),
    Mutation(
        "each address that a page's name leads to is looked at",
        "handlers/chat/fetcher.py",
        "(reason := why_refused(address, private=self.private)) is not None",
        "(reason := why_refused(address, private=True)) is not None",
        "chat_web",
    ),
    Mutation(
        "an address of IPv4 within one of IPv6 is looked at",
        "handlers/chat/addresses.py",
        " if _is_in(_WRAPS, address) else address",
        " if False else address",
        "chat_web",
    ),
    Mutation(
        "an address that wraps IPv4 in another way is refused",
        "handlers/chat/addresses.py",
        "address in _UNICAST and not _is_in(_NOT_UNICAST, address)",
        "address.is_global",
        "chat_web",
    ),
    Mutation(
        "the address that was looked at is the one that is asked",
        "handlers/chat/fetcher.py",
        "url.copy_with(host=address, fragment=None)",
        "url.copy_with(fragment=None)",
        "chat_web",
    ),
    Mutation(
        "a page's certificate is its name's",
        "handlers/chat/fetcher.py",
        '                "sni_hostname": url.raw_host.decode("ascii"),\n',
        "",
        "chat_web",
    ),
    Mutation(
        "a page has a time limit as a whole",
        "handlers/chat/fetcher.py",
        "with trio.move_on_after(SECONDS):",
        "with trio.move_on_after(10 * SECONDS):",
        "chat_web",
    ),
    Mutation(
        "reading a page ends with its time limit",
        "handlers/chat/fetcher.py",
        "page.describe, trio.from_thread.check_cancelled, limiter=threads",
        "page.describe, limiter=threads",
        "chat_web",
    ),
    Mutation(
        "pages are read in threads of their own",
        "handlers/chat/fetcher.py",
        "page.describe, trio.from_thread.check_cancelled, limiter=threads",
        "page.describe, trio.from_thread.check_cancelled",
        "chat_web",
    ),
    Mutation(
        "a page is read in encodings of the web only",
        "handlers/chat/page.py",
        'return name if name in _ENCODINGS else "utf-8"',
        "return name",
        "chat_page",
    ),
    Mutation(
        "what a packed page becomes is bounded",
        "handlers/chat/page.py",
        "unpacker.decompress(self.body, MOST_BYTES)",
        "unpacker.decompress(self.body)",
        "chat_page",
    ),
    Mutation(
        "a page takes no more time than it has characters",
        "handlers/chat/page_text.py",
        """|([^ \\t\\n\\f\\r>"']+)))?\"""",
        """|([^ \\t\\n\\f\\r>"']+)))\"""",
        "chat_page",
    ),
    Mutation(
        "the metadata of clouds is refused",
        "handlers/chat/addresses.py",
        "if _is_in(_METADATA, address):",
        "if False:",
        "chat_web",
    ),
]


def notice(mutation: Mutation, *, folder: Path) -> str:
    """Break a copy of the checkout, and say which test has noticed; an empty string if none did."""
    copy = Path(tempfile.mkdtemp(dir=folder))
    for name in ("trio_worker", "tests", "examples", "benchmarks", "docs"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "CHANGELOG.md", ".env.example"):
        shutil.copy(ROOT / name, copy)
    broken = copy / "trio_worker" / mutation.file
    broken.write_text(
        broken.read_text(encoding="utf-8").replace(mutation.old, mutation.new), encoding="utf-8"
    )
    tests = [f"tests/test_{name}.py" for name in mutation.tests.split()]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    try:
        ran = subprocess.run(
            command, cwd=copy, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
        )
    except subprocess.TimeoutExpired:
        return ""  # a test that never ends notices nothing
    finally:
        shutil.rmtree(copy)
    return next((line[7:] for line in ran.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))), "")


def main() -> int:
    """Break one rule after the other, as many at a time as there are processors."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=__doc__)
    parser.add_argument("--rule", default="", help="only rules with this in them")
    wanted = [mutation for mutation in MUTATIONS if parser.parse_args().rule in mutation.rule]
    began, missed = time.perf_counter(), 0
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as processors:
        for mutation, test in zip(
            wanted, processors.map(partial(notice, folder=Path(folder)), wanted), strict=True
        ):
            missed += not test
            print(f"{mutation.rule}: {test.partition(' - ')[0] or 'NOBODY NOTICED'}", flush=True)
    print(f"{len(wanted)} rules broken in {time.perf_counter() - began:.0f} s, {missed} not noticed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
