"""What assets log, as plain lines on stderr: for a person who runs a job by a verb of the command line."""

import logging
import sys

import dagster as dg


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        facts = getattr(record, "dagster_meta", {})
        skipped = record.levelno >= logging.ERROR  # ours raise; only Dagster logs errors: steps it does not run
        if facts.get("dagster_event") is None and not skipped:  # what Dagster itself has to say is in its event log
            print(facts.get("orig_message", record.getMessage()), file=sys.stderr, flush=True)


def _logger(context: dg.InitLoggerContext) -> logging.Logger:
    logger = logging.Logger("mailmill.lines", level=logging.INFO)
    logger.addHandler(_Lines())
    return logger


lines = dg.LoggerDefinition(_logger, description="Plain lines on stderr, without what Dagster says of itself.")
