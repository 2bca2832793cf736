"""Stand-in for Backlink Engine: GET /v1/backlinks.

usage: python backlink_engine.py --port 9102 --count 5000 --seed 1 --key KEY
"""

from __future__ import annotations

from contact_api import backlink, run

if __name__ == "__main__":
    run("/v1/backlinks", backlink, port=9102)
