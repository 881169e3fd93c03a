"""What a run will cost, as far as that can be known before, and whether it is within the user's limits."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from .errors import RemoteError, SpendLimitError
from .journal import Journal
from .options import RemoteOptions
from .settings import UserSettings
from .transport import Transport

PRICE_SECONDS = 5.0
ASSUMED_MEGAPIXELS = 16.0
"""Counted for a hosted picture of unknown size: the largest result without `override_size_limits`."""
PER_REQUEST = ("image", "images", "request", "requests", "generation", "generations", "call", "calls")


@dataclass(frozen=True)
class Price:
    """An entry of the service's price list."""

    amount: float
    unit: str
    currency: str

    def of(self, megapixels: float) -> float | None:
        """What one result of this size costs, or None where the price is not by size or request."""
        if self.amount <= 0:
            return None
        unit = self.unit.lower()
        if "megapixel" in unit:
            return self.amount * megapixels
        return self.amount if unit in PER_REQUEST else None

    def __str__(self) -> str:
        return (
            f"{self.amount:g} {self.currency} per {self.unit}" if self.amount > 0 else "price not published"
        )


async def fetch_price(transport: Transport, app: str) -> Price | None:
    """The price of an app, or None if the service does not tell (in time)."""
    server = transport.server
    if not server.price_url:
        return None
    url = f"{server.price_url}?{urlencode({'endpoint_id': app})}"
    try:
        answer = await transport.send_safely("GET", url, patience=PRICE_SECONDS, seconds=PRICE_SECONDS)
    except RemoteError:
        return None
    content = answer.json()
    prices = content.get("prices") if isinstance(content, dict) else None
    for entry in prices if answer.status == 200 and isinstance(prices, list) else []:
        if isinstance(entry, dict) and entry.get("endpoint_id", app) == app:
            amount = entry.get("unit_price")
            if isinstance(amount, int | float) and math.isfinite(amount):
                scrub = transport.scrub
                return Price(
                    float(amount), scrub(entry.get("unit", ""), 40), scrub(entry.get("currency", ""), 8)
                )
    return None


def check_spending(
    sizes: Sequence[float | None],
    price: Price | None,
    *,
    settings: UserSettings,
    options: RemoteOptions,
    journal: Journal,
) -> str:
    """Raise `SpendLimitError` if results of these sizes (in megapixels) would exceed a limit.

    A size that is not known counts as `ASSUMED_MEGAPIXELS`, and a price that is not known as too much where
    there is a limit on it. Returns what the run comes to, in words.
    """
    known = [ASSUMED_MEGAPIXELS if size is None else size for size in sizes]
    megapixels = sum(known)
    costs = [price.of(size) if price else None for size in known]
    cost = sum(value for value in costs if value is not None)
    currency = price.currency if price and price.currency else "of cost"
    day_megapixels, day_cost = journal.spent_since(midnight())
    day = "today"
    _check(
        "this run",
        megapixels,
        _tighter(options.max_megapixels, settings.max_megapixels_per_run),
        "megapixels",
    )
    _check(day, day_megapixels + megapixels, settings.max_megapixels_per_day, "megapixels")
    run_limit = _tighter(options.max_cost, settings.max_cost_per_run)
    if None in costs and (run_limit or settings.max_cost_per_day):
        raise SpendLimitError(
            f"a limit on the cost is set, and what this costs cannot be known before "
            f"({price or 'the service tells no price'}); nothing was submitted. "
            "Set max_cost to 0 and limit the megapixels instead"
        )
    _check("this run", cost, run_limit, currency)
    _check(day, day_cost + cost, settings.max_cost_per_day, currency)
    text = f"{len(sizes)} request{'s' if len(sizes) != 1 else ''}, {megapixels:.1f} megapixels"
    if None in sizes:
        text += " (sizes of hosted pictures are assumed)"
    if price is None:
        return f"{text}; the service tells no price"
    if None in costs:
        return f"{text}; cost not known before ({price})"
    return f"{text}; about {cost:.3g} {currency} ({price})"


def _check(period: str, amount: float, limit: float, unit: str) -> None:
    if limit and amount > limit:
        raise SpendLimitError(
            f"{period}: {amount:.4g} {unit} with this run, the limit is {limit:g}; nothing was submitted. "
            "Do less, or raise the limit: on the node (max_megapixels, max_cost) or in your settings"
        )


def _tighter(asked: float, allowed: float) -> float:
    """The lower of two limits, where 0 is none: a workflow can only tighten what the user has set."""
    limits = [limit for limit in (asked, allowed) if limit]
    return min(limits) if limits else 0.0


def midnight() -> float:
    """When today began, by the clock of this machine."""
    now = time.localtime()
    return time.mktime((now.tm_year, now.tm_mon, now.tm_mday, 0, 0, 0, 0, 0, -1))
