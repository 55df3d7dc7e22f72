# SPDX-License-Identifier: GPL-2.0-or-later

"""Which module imports which, who forks and reaps, and how each file looks."""

import ast
import importlib
import os
import re
import subprocess
import sys

from breezy.tests import TestCase

from .harness import DEADLINE, PLUGIN
from .layers import (
    ARROWS,
    ORDERED,
    SETTINGS,
    SHARED,
    WITH_BREEZY,
    WITH_PROMETHEUS,
    WITH_TWISTED,
)

#: What the stand-alone client cannot afford: each costs it a few milliseconds.
SLOW = (
    "collections",
    "contextlib",
    "dataclasses",
    "enum",
    "functools",
    "json",
    "re",
    "selectors",
    "shlex",
    "signal",
    "socket",
    "subprocess",
    "tempfile",
    "typing",
)

#: Where processes are started.
STARTING = {
    # The one place that forks; the second puts a daemon into the background.
    ("system", "fork"),
    ("system", "daemonize"),
    # exec at once, so that nothing of the service is in a zygote.
    ("service.generation", "_launch"),
    # The same for a service, or an SSH server, that takes over.
    ("handover", "_spawn"),
    # The same for the processes of the SSH server.
    ("ssh.processes", "_launch"),
    # autostart: the client starts a service.
    ("client.autostart", "_run"),
}

#: Where children are waited for. In the service that is `children` alone.
REAPING = {
    ("service.children", "_reap"),
    ("service.children", "reap_strangers"),
    # In a service that has no loop any more, and waits for its successors.
    ("service.following", "_has_children"),
    # In the zygote, where it needs one: a process that does nothing but fork.
    ("system", "_fork_through_a_middle_process"),
    # In the zygote, before it is ready: the actors of the rehearsal.
    ("zygote.rehearsal", "_check_end"),
    ("zygote.rehearsal", "_perform"),
    # In the front of the SSH server: its processes.
    ("ssh.processes", "_ended"),
    # The same: a successor.
    ("ssh.upgrades", "_reap"),
    # In the foreground process, which waits until the daemon is ready.
    ("system", "daemonize"),
    # In the client: a service that puts itself into the background.
    ("client.autostart", "_run"),
}

#: Where another program is run to its end.
RUNNING = ("installation.programs",)

#: Signal handlers that do more than to wake a loop.
HANDLERS = {
    # In a worker: nobody opened its FIFOs in time.
    ("zygote.worker", "too_late"),
    # In a worker: Breezy's handler, and an end to waiting for a request.
    ("serving.smartserver", "medium.hang_up"),
    # What was there before that, or nothing where the worker ends now.
    ("serving.smartserver", "_signal.SIG_IGN if last else handler"),
    # In a worker: whether its client still reads, and what was there before that.
    ("serving.patience", "self._look"),
    ("serving.patience", "before"),
    # In a worker: as Python has them when it starts.
    ("zygote.reset", "wanted"),
    # In the SSH server: the way in which Twisted wakes its loop.
    ("ssh.front", "wake"),
}


def walk_sources(top=PLUGIN):
    """Every Python file of the project."""
    for directory, below, names in os.walk(top):
        below[:] = [n for n in below if n[0] not in "._" and n != "build"]
        for name in sorted(names):
            if name.endswith(".py"):
                yield os.path.join(directory, name)


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def parse_inside():
    """The modules of the plug-in: pairs of a name and a tree."""
    inside = os.path.join(PLUGIN, "lpserve")
    for path in walk_sources(inside):
        name = os.path.relpath(path, inside)[: -len(".py")].replace(os.sep, ".")
        if not name.endswith("__init__"):
            yield name, ast.parse(read(path))


MODULE_NAMES = frozenset(name for name, _ in parse_inside())


def absolute_imports(tree):
    """The names of the modules that *tree* imports, wherever it does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module


def relative_imports(name, tree):
    """The modules of the plug-in that the module *name* imports, by their names."""
    package = name.split(".")[:-1]
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        if node.level > len(package) + 1:
            continue  # of the plug-in itself: its options
        above = package[: len(package) + 1 - node.level]
        found = ".".join([*above, *(node.module or "").split(".")]).strip(".")
        if found in MODULE_NAMES:
            yield found
        else:
            for alias in node.names:
                yield f"{found}.{alias.name}".strip(".")


def layer_of(name):
    """The layer of a module: its folder, or the list of `layers` that it is in."""
    folder, _, _ = name.rpartition(".")
    if folder:
        return folder
    layers = {"shared": SHARED, "settings": SETTINGS}
    return next((layer for layer, names in layers.items() if name in names), None)


def calls(tree, function="<module>"):
    """Every call: pairs of the function it is in, and the node."""
    for node in ast.iter_child_nodes(tree):
        inside = function
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            inside = node.name
        if isinstance(node, ast.Call):
            yield inside, node
        yield from calls(node, inside)


def called(node):
    """What a call calls, as it is written."""
    return ast.unparse(node.func)


class TestImports(TestCase):
    """Which module may import what."""

    def test_arrows(self):
        for name, tree in parse_inside():
            layer = layer_of(name)
            self.assertIn(layer, ARROWS, f"say in layers.py where {name} belongs")
            allowed = {layer, *ARROWS[layer]}
            for imported in relative_imports(name, tree):
                self.assertIn(imported, MODULE_NAMES, name)
                self.assertTrue(
                    {imported, layer_of(imported)} & allowed,
                    f"{name} imports {imported}",
                )

    def test_order(self):
        for name, tree in parse_inside():
            folder, _, last = name.rpartition(".")
            if not folder:
                continue
            order = ORDERED[folder]
            self.assertIn(last, order, f"say in layers.py where {name} belongs")
            before = order[: order.index(last)]
            for imported in relative_imports(name, tree):
                other, _, module = imported.rpartition(".")
                if other == folder:
                    self.assertIn(module, before, f"{name} imports {imported}")

    def test_our_own_relatively(self):
        """Under whatever name the plug-in is loaded, it is loaded once."""
        inside = os.path.join(PLUGIN, "lpserve") + os.sep
        for path in walk_sources():
            name = os.path.basename(path)
            # Programs that are started by their path have nothing to be relative to.
            if not path.startswith(inside) and not name.startswith("test_"):
                continue
            for name in absolute_imports(ast.parse(read(path))):
                first = name.split(".")[0]
                self.assertNotIn(first, ("lpserve", "tests"), path)
                self.assertFalse(name.startswith("breezy.plugins.lpserve"), path)

    def without_breezy(self):
        """The names of what gets along without Breezy, with its trees."""
        for name, tree in parse_inside():
            layer = layer_of(name)
            light = layer in ("shared", "client", "service", "exporter")
            if light and name not in WITH_BREEZY:
                yield name, tree

    def test_without_breezy(self):
        for name, tree in self.without_breezy():
            for imported in absolute_imports(tree):
                first = imported.split(".")[0]
                if first != "prometheus_client":
                    self.assertIn(first, sys.stdlib_module_names, name)

    def test_without_breezy_when_run(self):
        """Nor does one of them by way of another."""
        script = (
            "import importlib, sys\n"
            "sys.path.insert(0, sys.argv[1])\n"
            "for name in sys.argv[2:]:\n"
            "    importlib.import_module('lpserve.' + name)\n"
            "sys.exit('breezy' in sys.modules)\n"
        )
        names = [name for name, _ in self.without_breezy()]
        words = [sys.executable, "-I", "-c", script, PLUGIN, *names]
        self.assertEqual(
            0, subprocess.run(words, timeout=DEADLINE, check=False).returncode
        )

    def test_client_is_light(self):
        """Up to where it looks for the service it imports nothing slow."""
        script = (
            "import sys\n"
            "sys.path.insert(0, sys.argv.pop(1))\n"
            "from lpserve.client.client import main\n"
            "main(sys.argv[1:])\n"
        )
        python = [sys.executable, "-I", "-S", "-X", "importtime", "-c", script]
        missing = os.path.join(self.id(), "missing")
        words = ["/", "--no-fallback", "--runtime-dir", missing, "alice"]
        done = subprocess.run(
            [*python, PLUGIN, *words],
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        self.assertEqual(69, done.returncode, done.stderr)
        imported = re.findall(r"(?m)^import time: .*\| +(\S+)$", done.stderr)
        self.assertIn("lpserve.client.client", imported)
        self.assertEqual([], [name for name in SLOW if name in imported])

    def test_extras(self):
        for name, tree in parse_inside():
            firsts = {each.split(".")[0] for each in absolute_imports(tree)}
            if name in ("cmds.ssh", "cmds.exporter"):
                continue  # they look whether it is there
            self.assertEqual(name in WITH_TWISTED, "twisted" in firsts, name)
            found = "prometheus_client" in firsts
            self.assertEqual(name in WITH_PROMETHEUS, found, name)


class TestProcesses(TestCase):
    """One place forks, one place reaps, handlers do nothing."""

    def find(self, *names):
        """Where one of these functions of ``os`` is called."""
        return {
            (module, function)
            for module, tree in parse_inside()
            for function, node in calls(tree)
            if called(node) in [f"os.{name}" for name in names]
        }

    def test_fork(self):
        forking = self.find("fork", "forkpty")
        self.assertEqual({"system"}, {module for module, _ in forking})
        found = forking | self.find("posix_spawn", "posix_spawnp", "system", "popen")
        self.assertEqual(STARTING, found)

    def test_no_other_way(self):
        """Nobody takes a function out of ``os``, or a module that would fork."""
        for name, tree in parse_inside():
            imported = set(absolute_imports(tree))
            if name in RUNNING:
                imported.discard("subprocess")
            self.assertEqual(
                set(), imported & {"multiprocessing", "pty", "subprocess"}, name
            )
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom) and not node.level:
                    self.assertNotEqual("os", node.module, name)

    def test_reaping(self):
        self.assertEqual(
            REAPING, self.find("wait", "wait3", "wait4", "waitid", "waitpid")
        )

    def test_signal_handlers(self):
        for module, tree in parse_inside():
            for _, node in calls(tree):
                if called(node) not in ("signal.signal", "_signal.signal"):
                    continue
                handler = node.args[1]
                text = ast.unparse(handler)
                if isinstance(handler, ast.Lambda):
                    self.assertEqual("lambda number, frame: None", text, module)
                elif not re.fullmatch(r"_?signal\.SIG_(DFL|IGN)", text):
                    self.assertIn((module, text), HANDLERS)

    def test_wake_up_descriptor(self):
        """It belongs to a loop; a worker gives it up."""
        found = {
            module
            for module, tree in parse_inside()
            for _, node in calls(tree)
            if called(node).endswith(".set_wakeup_fd")
        }
        self.assertEqual({"service.loop", "client.relay", "zygote.reset"}, found)


class TestFiles(TestCase):
    """How every file looks."""

    def test_header_and_docstring(self):
        header = read(__file__.removesuffix("c")).partition('"""')[0]
        for path in walk_sources():
            text = read(path)
            if text.startswith("#!"):
                text = text.partition("\n")[2]
            self.assertTrue(text.startswith(header), f"no header: {path}")
            docstring = ast.get_docstring(ast.parse(text))
            self.assertTrue(docstring, f"no docstring: {path}")

    def test_length(self):
        for path in walk_sources():
            lines = read(path).count("\n")
            self.assertTrue(lines <= 400, f"{path} has {lines} lines")

    def test_no_path_of_a_machine(self):
        """Nothing knows where it was written."""
        machines = re.compile(r"(?<![\w.%}])/(root|work|Users)/(?!current)")
        for path in walk_sources():
            for line in read(path).splitlines():
                if "re.compile" not in line:
                    self.assertIs(None, machines.search(line), f"{path}: {line}")

    def test_every_test_is_run(self):
        """A module of tests that is not registered would never run."""
        here = os.path.join(PLUGIN, "tests")
        for directory, _, names in os.walk(here):
            found = [name[:-3] for name in names if re.match(r"test_.*\.py$", name)]
            if not found:
                continue
            folder = os.path.relpath(directory, here).replace(os.sep, ".").strip(".")
            package = __package__ + (f".{folder}" if folder else "")
            registered = importlib.import_module(package).MODULES
            self.assertEqual(set(), set(found) - set(registered), package)
            above, _, last = package.rpartition(".")
            if folder:
                self.assertIn(last, importlib.import_module(above).MODULES)
