"""Tools that look at the web: ``CHAT_TOOLS=trio_worker.handlers.chat.web:tools``, or ``:intranet_tools``.

The former refuse every address that is not public. Which of the two there are is the operator's choice, and
no argument of the model's.
"""

from __future__ import annotations

from trio_worker.handlers.chat.fetcher import Fetcher

__all__ = ["fetch_page", "fetch_page_inside", "intranet_tools", "tools"]

_public = Fetcher(private=False)
_inside = Fetcher(private=True)


async def fetch_page(url: str) -> str:
    """Fetch a page of the web by GET and give its HTTP status, address, title and text.

    Fields and buttons of forms are shown in square brackets. No JavaScript runs.

    Args:
        url: The full address, beginning with http:// or https://.
    """
    return await _public.fetch(url)


async def fetch_page_inside(url: str) -> str:
    """Fetch a page by GET, also of the private network, and give its HTTP status, address, title and text.

    Fields and buttons of forms are shown in square brackets. No JavaScript runs.

    Args:
        url: The full address, beginning with http:// or https://.
    """
    return await _inside.fetch(url)


fetch_page_inside.__name__ = "fetch_page"  # one name for the model, whichever there is

tools = (fetch_page,)
intranet_tools = (fetch_page_inside,)
