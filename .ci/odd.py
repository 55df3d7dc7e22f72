#!/usr/bin/env python3
"""Run tests as odd shells would start them; 'make check-odd' is this.

    odd.py MAKE [CONDITION...] [NAME=VALUE...]

Runs "MAKE test NAME=VALUE..." under each CONDITION (all of them by default), and
says in the end which failed. "user" needs root, who becomes another in a copy.
"""

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
#: What is inherited matters to these, of all kinds.
TESTS = (
    "test_knownstate test_paths test_logs test_system service.test_socketdoor_life "
    "client.test_socketconversation test_lp_serve.TestForkServer "
    "live.client.test_client live.stopping.test_life.TestReaping test_conch.TestWorker "
    "live.spawning.test_reset.T live.ssh.test_sshd live.stopping.test_stopping"
)
ENVIRONMENT = {
    "BRZ_EMAIL": "Odd <odd@example.com>",
    "BRZ_HOME": "/nonexistent/home",
    "LC_ALL": "tlh_KLI",
    "LISTEN_FDS": "3",
    "LISTEN_PID": "1",
    "LPSERVE_RUNTIME_DIR": "/nonexistent/run",
    "NOTIFY_SOCKET": "/nonexistent/notify",
    "PYTHONPATH": "/nonexistent/python",
    "TZ": "Nowhere/Odd",
    "XDG_CACHE_HOME": "/nonexistent/cache",
    "XDG_RUNTIME_DIR": "/nonexistent/run",
}
NOBODY = 65534


def _ignore_signals():
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)


def _limit(number):
    with contextlib.suppress(ValueError):  # only root may have more
        resource.setrlimit(resource.RLIMIT_NOFILE, (number, number))


def _open_many():
    for number in (10, 251):
        os.dup2(0, number, inheritable=True)


#: What is done in the process that becomes make.
IN_CHILD = {
    "signals": _ignore_signals,
    "descriptors": _open_many,
    "stdin": lambda: os.close(0),
    "umask": lambda: os.umask(0o077),
    "umask0": lambda: os.umask(0),
    "few": lambda: _limit(1024),
    "many": lambda: _limit(1 << 20),
}


@contextlib.contextmanager
def _nothing():
    yield [], {}, HERE


@contextlib.contextmanager
def _nohup():
    yield ["nohup"], {}, HERE


@contextlib.contextmanager
def _environment():
    yield [], ENVIRONMENT, HERE


@contextlib.contextmanager
def _tmpdir():
    with tempfile.TemporaryDirectory() as top:
        path = os.path.join(top, *["a-path-that-is-long"] * 6)
        os.makedirs(path)
        yield [], {"TMPDIR": path}, HERE


@contextlib.contextmanager
def _load():
    loops = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(4)]
    try:
        yield [], {}, HERE
    finally:
        for each in loops:
            each.kill()
            each.wait()


@contextlib.contextmanager
def _user():
    """A copy of what git knows, which is somebody else's."""
    with tempfile.TemporaryDirectory() as top:
        words = ["git", "ls-files", "-z", "-co", "--exclude-standard"]
        names = subprocess.check_output(words, cwd=HERE, text=True).split("\0")
        for name in filter(None, names):
            path = os.path.join(top, "lpserve", name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            shutil.copy(os.path.join(HERE, name), path)
        subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", top], check=True)
        become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        yield become, {"HOME": top}, os.path.join(top, "lpserve")


#: What is around make: words before it, names in its environment, its directory.
AROUND = {
    "nohup": _nohup,
    "environment": _environment,
    "tmpdir": _tmpdir,
    "load": _load,
    "user": _user,
}


def run(make, condition, words):
    """Whether the tests succeed."""
    print(f"==== {condition}", flush=True)
    with AROUND.get(condition, _nothing)() as (before, env, directory):
        done = subprocess.run(
            [*before, make, "test", *words],
            env={**os.environ, **env},
            cwd=directory,
            preexec_fn=IN_CHILD.get(condition),
            close_fds=False,
            check=False,
        )
    return done.returncode == 0


def main(make, *words):
    """Run all; the exit status."""
    variables = [each for each in words if "=" in each]
    if not any(each.startswith("TESTS=") and each != "TESTS=" for each in variables):
        variables = [*variables, f"TESTS={TESTS}"]
    chosen = [each for each in words if "=" not in each] or [*IN_CHILD, *AROUND]
    failed = [each for each in chosen if not run(make, each, variables)]
    print(f"failed: {' '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
