#!/usr/bin/env python3
"""Growth per session-hour by folder, counted twice: here, and by betcode-db.

    growth_by_folder.py BETCODE_DB FOLDER

FOLDER holds folders of *.jsonl. Each file is counted here from its bytes alone, as docs/FORMAT.md
defines it, and then imported; messages, bytes, active and wall-clock milliseconds must be equal,
session by session and in the report. Files that tell no time are in no figure by the hour. Prints a
table; exits 1 when something differs.
"""

import json
import os
import subprocess
import sys
import tempfile
from datetime import datetime, timedelta, timezone

GAP_MS_MAX = 5 * 60 * 1000
TURN_MS_MAX = 24 * 60 * 60 * 1000
PLAN_BYTES_PER_HOUR = 1_000_000
HOUR_MS = 3_600_000
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def fields(line):
    """The line's top-level fields; none when it is not a JSON object."""
    try:
        value = json.loads(line.decode("utf-8"))
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def turn_ms(fields):
    """How long the turn took that the line ends, or None. That none ends more than a day after its
    import is left out here: no file of the past shows it."""
    duration = fields.get("duration_ms")
    if type(duration) not in (int, float) or not 0 <= duration < 2**32:
        return None
    return min(int(duration), TURN_MS_MAX)


def said_ms(fields):
    """The line's own top-level timestamp in Unix milliseconds, or None."""
    text = fields.get("timestamp")
    if not isinstance(text, str):
        return None
    try:
        time = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    return (time - EPOCH) // timedelta(milliseconds=1) if time.tzinfo else None


def count(path):
    """((messages, raw bytes, active ms, wall ms), whether it tells a time) of one file."""
    with open(path, "rb") as file:
        lines = file.read().split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    active, first, last = 0, None, None
    # Of the turn: from when its lines tell times, and the active time then.
    start, before = None, 0
    for line in map(fields, lines):
        now, ends = said_ms(line), line.get("type") == "result"
        if now is not None:
            if last is not None:
                active += min(max(now - last, 0), GAP_MS_MAX)
            first = now - active if first is None else min(first, now)
            last = now if last is None else max(last, now)
            if start is None:
                start, before = last, active
        elif ends and turn_ms(line) is not None:
            if start is None:
                start, before = last, active
            active = max(active, before + turn_ms(line))
            if last is not None:
                last = max(last, start + turn_ms(line))
        if ends:
            start = None
    wall = active if first is None else last - first
    counts = len(lines), sum(map(len, lines)), active, wall
    return counts, first is not None or active > 0


def recorded(tool, folder, database):
    """The same of each session, and of the report, as betcode-db tells it."""

    def run(*args):
        command = [tool, "--db", database, "--json", *args]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        return json.loads(done.stdout)

    run("--no-fsync", "import", folder)
    sessions = []
    for session in run("sessions")["sessions"]:
        first, last = session["first_time_ms"], session["last_time_ms"]
        active = round(session["active_hours"] * HOUR_MS)
        wall = active if first is None else last - first
        sessions.append((session["messages"], session["raw_bytes"], active, wall))
    report = run("report")
    growth = report["growth"]
    hours = (growth["active_hours"], growth["wall_hours"])
    total = (report["messages"], report["raw_bytes"], *(round(h * HOUR_MS) for h in hours))
    return sorted(sessions), total, growth["bytes_per_session_hour"]


def main(tool, top):
    print(f"{'folder':<20} {'files':>5} {'messages':>8} {'MB':>7} {'active h':>9} "
          f"{'MB/h':>6} {'of plan':>8}")
    wrong = 0
    with tempfile.TemporaryDirectory() as scratch:
        for name in sorted(os.listdir(top)):
            folder = os.path.join(top, name)
            if not os.path.isdir(folder):
                continue
            paths = [os.path.join(at, file) for at, _, files in os.walk(folder) for file in files]
            files = [count(path) for path in paths]
            counted = sorted(counts for counts, _ in files)
            timed = sum(counts[1] for counts, tells_a_time in files if tells_a_time)
            total = tuple(map(sum, zip(*counted)))
            database = os.path.join(scratch, name + ".db")
            sessions, reported, pace = recorded(tool, folder, database)
            messages, raw, active, _ = total
            if active:
                here = timed / (active / HOUR_MS)
                told = f"{here / 1e6:>6.2f} {here / PLAN_BYTES_PER_HOUR:>6.2f} x"
                same_pace = pace is not None and abs(pace - here) < 1e-6 * here
            else:
                told, same_pace = "no timestamps", pace is None
            print(f"{name[:20]:<20} {len(paths):>5} {messages:>8} {raw / 1e6:>7.2f} "
                  f"{active / HOUR_MS:>9.3f} {told}")
            if sessions != counted or reported != total or not same_pace:
                wrong += 1
                print(f"  DIFFERS: counted {total}, reported {reported}")
                for here, there in zip(counted, sessions):
                    if here != there:
                        print(f"    counted {here}, recorded {there}")
    print("plan: 1.00 MB per session-hour")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
