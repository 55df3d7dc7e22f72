# SPDX-License-Identifier: GPL-2.0-or-later

"""Has something done in a process of its own: what cannot be undone."""

import json
import os
import traceback


def in_child(run):
    """What *run* returns, as JSON has it, called in a forked child."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reader)
            try:
                told = {"result": run()}
            except BaseException:
                told = {"traceback": traceback.format_exc()}
            with open(writer, "w") as file:
                json.dump(told, file)
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with open(reader) as file:
        text = file.read()
    os.waitpid(pid, 0)
    told = json.loads(text) if text else {"traceback": "the child said nothing"}
    if "traceback" in told:
        raise AssertionError(told["traceback"])
    return told["result"]


def attempt(run, *args):
    """The name of the error with which *run* fails, or "done"."""
    try:
        run(*args)
    except OSError as error:
        return type(error).__name__
    return "done"
