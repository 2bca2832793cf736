"""What Dagster loads: every asset, check, job, schedule and sensor, and the live objects they are handed.

Listed by hand, so that it also loads from an installed package. Loading it opens no connection.
"""

import gc
import warnings

import dagster as dg

gc.set_threshold(50_000, 20, 20)  # every run is a process of its own, and most of its objects stay as long as it does

# before the assets are imported: their decorators use what Dagster calls beta and preview, and warn at once
warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)

from mailmill.assets import (  # noqa: E402
    campaigns,
    contacts,
    control,
    events,
    generations,
    lake,
    segments,
    validation,
    warehouse,
)
from mailmill.composition import Installation  # noqa: E402
from mailmill.sensors import jobs, lost_runs, schedules, sensors  # noqa: E402
from mailmill.sensors.lines import lines  # noqa: E402


def definitions(mill: Installation) -> dg.Definitions:
    """The definitions over one installation."""
    modules = [contacts, generations, segments, campaigns, warehouse, lake, validation]
    return dg.Definitions(
        assets=[*dg.load_assets_from_modules(modules, include_specs=True), *events.ALL],
        asset_checks=dg.load_asset_checks_from_modules(modules),
        jobs=[*jobs.ALL, control.campaign_control],
        schedules=schedules.ALL,
        sensors=sensors.ALL,
        resources={"mill": lost_runs.shown(mill)},
        loggers={"console": dg.colored_console_logger, "lines": lines},
        # a step in a process of its own costs seconds to start (measured: 4 s against 0.05 s)
        executor=dg.in_process_executor,
    )


defs = definitions(Installation())
