# SPDX-License-Identifier: GPL-2.0-or-later

"""A plug-in for the tests: does in a worker what a client asks for, whatever it is.

"tryer\\n" has it run the lines of the file $TRYER, Python each, and answers with what
became of them: a list of strings.
"""

import ctypes  # noqa: F401 - for the lines
import json
import os
import shutil  # noqa: F401
import signal  # noqa: F401
import socket  # noqa: F401
import subprocess  # noqa: F401
import sys  # noqa: F401
import tempfile  # noqa: F401

from breezy import trace  # noqa: F401
from breezy.bzr.smart import request

# When it is loaded nothing is out of reach yet.
_path = os.environ["TRYER"]


def _attempt(line):
    try:
        return str(eval(line))
    except Exception as error:
        return type(error).__name__


class _Request(request.SmartServerRequest):
    def do(self):
        with open(_path) as file:
            results = [_attempt(line) for line in file]
        text = json.dumps(results).encode()
        return request.SuccessfulSmartServerResponse((b"ok", text))


request.request_handlers.register(b"tryer", _Request, info="read")
