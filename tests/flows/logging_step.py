"""Logs with Python's logging, configured and not."""

import logging
import multiprocessing

from metaflow import FlowSpec, step

log = logging.getLogger("shop.training")


def work(_):
    log.error("from a forked process")


class LoggingFlow(FlowSpec):
    @step
    def start(self):
        """With logging as Python starts it."""
        log.debug("debug record")
        log.info("info record")
        log.warning("warning record: %s", {"a": 1})
        log.log(35, "custom level")
        try:
            {}["key"]
        except KeyError:
            log.exception("caught it")
        with multiprocessing.get_context("fork").Pool(1) as pool:
            pool.map(work, [0])
        self.next(self.configured)

    @step
    def configured(self):
        """With logging as a user configures it."""
        logging.basicConfig(level=logging.INFO, format="my format: %(message)s", force=False)
        self.handlers = len(logging.getLogger().handlers)
        log.info("configured info")
        quiet = logging.getLogger("quiet")
        quiet.setLevel(logging.CRITICAL)
        quiet.error("not let through")
        self.next(self.flood)

    @step
    def flood(self):
        for number in range(1000):
            log.warning("record %d", number)
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    LoggingFlow()
