"""Tells Dagster what the listener did, by its REST API: importing dagster costs 67 MiB, and losing a report nothing."""

from __future__ import annotations

import logging

import httpx

from mailmill.pipelines.listen.loop import Report

logger = logging.getLogger(__name__)
EVERY_S = 30.0  # Dagster's event log has no retention, so reports are few


def report_fold(url: str, folded: Report) -> bool:
    """Report a materialization of what the listener keeps. Out: False when Dagster did not take it; no harm is done.

    In: url of Dagster's web server, such as http://127.0.0.1:3000.
    Source: Dagster's external assets REST API, POST /report_asset_materialization/<asset key>.
    """
    metadata = {"events": folded.events, "batches": folded.batches, "dead_letters": folded.poison, "lag": folded.lag}
    try:
        with httpx.Client(base_url=url, timeout=5.0, trust_env=False) as client:
            for asset in ("delivery_events", "statistics"):
                answer = client.post(f"/report_asset_materialization/{asset}", json={"metadata": metadata})
                answer.raise_for_status()
    except httpx.HTTPError as error:
        logger.debug("Dagster did not take the listener's report", extra={"why": type(error).__name__})
        return False
    return True
