"""Is a query that we hold still ours? WebBuddy has no owner and no lease: only a look tells.

Between the look and what follows it stays a gap: the API has no way to change a query only if it is still
as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import Enum

import structlog
import trio

from trio_worker.errors import NotFound, Refused, Unavailable
from trio_worker.held import Held
from trio_worker.query import Done, Failed, Outcome, Query
from trio_worker.webbuddy import WebBuddyClient

__all__ = ["MOST_FAILED_LOOKS", "Standing", "look", "look_at_all", "standing"]

log = structlog.get_logger(__name__)

MOST_SINGLE_LOOKS = 20  # for more, pages of 50 are fewer calls
MOST_FAILED_LOOKS = 3  # in a row, which are an outage


class Standing(Enum):
    """How a query that we hold stands at WebBuddy."""

    OURS = "it is in_progress, as we have claimed it"
    DELIVERED = "WebBuddy has our answer already"
    TAKEN = "it was ended, requeued or deleted there, or WebBuddy has a new database"
    OTHER_DATABASE = "its number is another query's: WebBuddy's database was reset"
    NOT_ASKABLE = "this WebBuddy can't be asked"


async def look(webbuddy: WebBuddyClient, held: Held) -> Standing:
    """Look once.

    Raises:
        Unavailable: WebBuddy can't be reached.
        AccessDenied: The log-in is refused.
    """
    try:
        now = await webbuddy.get_query(held.query.id)
    except NotFound as error:
        return Standing.TAKEN if error.by_api else Standing.NOT_ASKABLE
    except Refused:  # this account may not read it
        return Standing.NOT_ASKABLE
    return _noted(held, now)


async def look_at_all(webbuddy: WebBuddyClient, helds: Sequence[Held], found: dict[Held, Standing]) -> None:
    """Look at many, by pages of 50 where these are fewer calls.

    Args:
        webbuddy: The door to WebBuddy.
        helds: The queries.
        found: Gets how they stand, one by one: what was seen before an error is not to be asked again. Those
            of which WebBuddy could not say it just now are missing in it.

    Raises:
        Unavailable: WebBuddy can't be reached, or fails for several in a row.
        AccessDenied: The log-in is refused.
    """
    if len(helds) > MOST_SINGLE_LOOKS:
        found |= await _look_at_pages(webbuddy, helds)
    failed_in_a_row = 0
    for held in [held for held in helds if held not in found]:
        try:
            found[held] = await look(webbuddy, held)
            failed_in_a_row = 0
        except Unavailable as error:
            # It may be this query alone, whose page a proxy gives up; the others must not wait for it.
            failed_in_a_row += 1
            if error.status is None or failed_in_a_row == MOST_FAILED_LOOKS:
                raise
            log.debug("a query can't be looked at", query=held.query.id, reason=str(error))


async def _look_at_pages(webbuddy: WebBuddyClient, helds: Sequence[Held]) -> dict[Held, Standing]:
    """Find those that are still ours. One that is not on the pages needs a look of its own.

    Pages shift while they are read: a query that another's end has moved to the page before is missed.
    """
    try:
        listed = {query.id: query for query in await webbuddy.by_status("in_progress")}
    except Refused:
        return {}
    found = {}
    for held in helds:
        now = listed.get(held.query.id)
        if now is not None and _noted(held, now) is Standing.OURS:
            found[held] = Standing.OURS
    return found


def _noted(held: Held, now: Query) -> Standing:
    found = standing(held.query, held.outcome, now, reported=held.entry.reported)
    if found is Standing.OURS:
        held.seen_at = trio.current_time()
    return found


def standing(claimed: Query, outcome: Outcome | None, now: Query, *, reported: bool = False) -> Standing:
    """Compare a query as we have claimed it with what WebBuddy shows now.

    Args:
        claimed: As it was handed out.
        outcome: How it ended here, or None.
        now: As it is shown.
        reported: Whether WebBuddy is known to have taken the outcome, or what was said instead of one that it
            refuses.
    """
    if _differ(claimed.query_created, now.query_created):
        return Standing.OTHER_DATABASE
    if now.status == "in_progress" and not _differ(claimed.query_started, now.query_started):
        return Standing.OURS
    # What was said instead of an outcome that WebBuddy refuses is not written down, but was a failure.
    ours = ("done", "failed") if isinstance(outcome, Done) else ("failed",)
    has_ended = now.status in ours and not _differ(claimed.query_started, now.query_started)
    if _is_delivered(outcome, now) or (reported and has_ended):
        return Standing.DELIVERED
    return Standing.TAKEN


def _differ(claimed: datetime | None, now: datetime | None) -> bool:
    """Whether two times are known and not the same: one version of WebBuddy leaves one of them out."""
    return claimed is not None and now is not None and claimed != now


def _is_delivered(outcome: Outcome | None, now: Query) -> bool:
    said = (now.status, (now.answer_text or "").strip())
    match outcome:
        case Done(answer):
            return said == ("done", answer.strip())
        case Failed(reason):
            return said == ("failed", reason.strip())
    return False
