# SPDX-License-Identifier: GPL-2.0-or-later

"""Runs a function in a forked child: for what a process cannot undo.

Examples are limits, sandboxes, adopted orphans, and reaping every child.
"""

import json
import os
import signal
import traceback

from .waiting import DEADLINE


def in_child(run):
    """Call *run* in a forked child; what it returns, as JSON carries it.

    :raises AssertionError: if *run* raises, or does not end within `DEADLINE`.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            signal.alarm(int(DEADLINE))
            try:
                told = {"result": run()}
            except BaseException:
                told = {"traceback": traceback.format_exc()}
            with open(writer, "w") as file:
                json.dump(told, file)
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as file:
        text = file.read()
    os.waitpid(pid, 0)
    told = json.loads(text) if text else {"traceback": "the child said nothing"}
    if "traceback" in told:
        raise AssertionError("in a child: " + told["traceback"])
    return told["result"]


def attempt(run, *args):
    """The name of the error with which *run* fails, or "done"."""
    try:
        run(*args)
    except OSError as error:
        return type(error).__name__
    return "done"
