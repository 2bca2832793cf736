"""Stand-in for Scraper-Pro: GET /v1/contacts.

usage: python scraper_pro.py --port 9101 --count 5000 --seed 1 --key KEY
"""

from __future__ import annotations

from contact_api import contact, run

if __name__ == "__main__":
    run("/v1/contacts", contact, port=9101)
