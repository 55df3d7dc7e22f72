# SPDX-License-Identifier: GPL-2.0-or-later

"""Packages that are installed for one test, in two releases that cannot be mixed.

A module of one release cannot be imported by a process that has the other one: it
needs a name that its own release alone has. So a process that imports something after
the files were replaced fails.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple

from ...harness import PLUGIN

#: Has a Python that is started with our directory use no other one's packages.
_CUSTOMIZE = """
import sys
sys.path[:] = [each for each in sys.path if not each.endswith("-packages")]
"""
#: The version of each release.
RELEASES = {"old": "90.1", "new": "90.2"}


class Package(NamedTuple):
    """One that is installed.

    :ivar module: its name.
    :ivar wanted: of its source; None: all of it.
    :ivar left_out: paths in it, without their beginning.
    """

    name: str
    module: str
    wanted: tuple[str, ...] | None = None
    left_out: tuple[str, ...] = ()

    def source(self) -> str:
        """Its directory."""
        if self.module == LPSERVE.module:
            return PLUGIN
        return os.path.dirname(import_module(self.module).__file__)

    def files(self) -> list[str]:
        """The paths of its files in `source`."""
        top, found = self.source(), []
        for directory, below, names in os.walk(top):
            inside = os.path.relpath(directory, top)
            if inside == "." and self.wanted is not None:
                below[:] = names[:] = self.wanted
            below[:] = [
                each
                for each in below
                if os.path.normpath(os.path.join(inside, each)) not in self.left_out
                and each not in ("__pycache__", "tests")
            ]
            found += [os.path.normpath(os.path.join(inside, each)) for each in names]
        return [each for each in found if os.path.isfile(os.path.join(top, each))]


BREEZY = Package("breezy", "breezy", None, ("locale", "plugins/lpserve"))
LPSERVE = Package("lpserve", "breezy.plugins.lpserve", ("__init__.py", "lpserve"))
#: Workers import it.
CONFIGOBJ = Package("configobj", "configobj")


class Installation:
    """Packages in a directory of their own, the old release at first.

    :ivar path: for PYTHONPATH.
    """

    def __init__(self, place: str):
        self.path = os.path.join(place, "lib")
        self._releases = os.path.join(place, "releases")
        packages = (BREEZY, LPSERVE, CONFIGOBJ)
        for package in packages:
            for release in RELEASES:
                self._prepare(package, release)
        words = [sys.executable, "-m", "compileall", "-q", "-j2", self._releases]
        subprocess.run(words, check=True)
        for package in packages:
            self._copy_all(package, "old")
        self._use_others()

    def as_dpkg(
        self, package: Package, release: str, meanwhile: Callable[[], None]
    ) -> None:
        """Install as dpkg does: each file is replaced by another one, old ones go last.

        :param meanwhile: called when all are replaced.
        """
        before = self._installed(package)
        after = self._released(package, release)
        for each in before:
            if each.endswith(".pyc"):  # as prerm does
                os.unlink(os.path.join(self.path, each))
        code = [each for each in after if not each.endswith(".pyc")]
        for each in code:
            self._copy(package, release, each, ".dpkg-new")
        for each in code:
            path = os.path.join(self.path, each)
            os.rename(path + ".dpkg-new", path)
        meanwhile()
        for each in before - after:
            if not each.endswith(".pyc"):
                os.unlink(os.path.join(self.path, each))
        for each in after - {*code}:  # as postinst does
            self._remove(each)  # one that a process has written meanwhile
            self._copy(package, release, each)

    def as_pip(
        self, package: Package, release: str, meanwhile: Callable[[], None]
    ) -> None:
        """Install as pip does: the old files go, then the new ones come.

        :param meanwhile: called when there are none.
        """
        aside = os.path.join(self.path, "~" + package.name)
        for each in self._installed(package):
            path = os.path.join(aside, each)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.rename(os.path.join(self.path, each), path)
        for directory, _, _ in os.walk(self._place(package), topdown=False):
            if not os.listdir(directory):
                os.rmdir(directory)
        meanwhile()
        self._copy_all(package, release)
        shutil.rmtree(aside)

    # -- files -----------------------------------------------------------------

    def _use_others(self) -> None:
        """Have all that is installed elsewhere, but not where a package is missing."""
        with open(os.path.join(self.path, "sitecustomize.py"), "w") as file:
            file.write(_CUSTOMIZE)
        for place in sys.path:
            if place.endswith("-packages"):
                for each in os.listdir(place):
                    path = os.path.join(self.path, each)
                    if each != "__pycache__" and not os.path.lexists(path):
                        os.symlink(os.path.join(place, each), path)

    def _prepare(self, package: Package, release: str) -> None:
        """Make a release, where nothing runs it."""
        top = self._place(package, release)
        mark = f"only_in_{release}"
        for each in package.files():
            path, source = os.path.join(top, each), package.source()
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if not each.endswith(".py"):
                # No link: a rename to another link of a file would do nothing.
                shutil.copy2(os.path.join(source, each), path)
                continue
            with open(os.path.join(source, each)) as file:
                text = file.read()
            if each == "__init__.py":
                first = r"(?m)^(?=import |from (?!__future__))"
                text = re.sub(first, f"{mark} = True\n", text, count=1)
                text += f"\n__version__ = {RELEASES[release]!r}\n"
            else:
                text += f"\nfrom {package.module} import {mark}  # noqa\n"
            with open(path, "w") as file:
                file.write(text)
        with open(os.path.join(top, mark + ".py"), "w"):
            pass

    def _place(self, package: Package, release: str | None = None) -> str:
        """The directory of a package; of a release, before it is installed."""
        top = self.path
        if release is not None:
            top = os.path.join(self._releases, f"{package.name}-{release}")
        return os.path.join(top, *package.module.split("."))

    def _released(self, package: Package, release: str) -> set[str]:
        """The files of a release, as paths in `path`."""
        top = self._place(package, release)
        inside = os.path.join(*package.module.split("."))
        return {os.path.join(inside, each) for each in _files(top)}

    def _installed(self, package: Package) -> set[str]:
        """The files that are there of a package, as paths in `path`."""
        top = self._place(package)
        inside = os.path.join(*package.module.split("."))
        found = {os.path.join(inside, each) for each in _files(top)}
        if package is BREEZY:
            other = os.path.join(*LPSERVE.module.split("."), "")
            found = {each for each in found if not each.startswith(other)}
        return found

    def _copy_all(self, package: Package, release: str) -> None:
        for each in self._released(package, release):
            self._copy(package, release, each)

    def _copy(
        self, package: Package, release: str, name: str, suffix: str = ""
    ) -> None:
        source = os.path.join(self._releases, f"{package.name}-{release}", name)
        path = os.path.join(self.path, name + suffix)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        _link(source, path)

    def _remove(self, name: str) -> None:
        if os.path.exists(os.path.join(self.path, name)):
            os.unlink(os.path.join(self.path, name))


def _files(top: str) -> list[str]:
    return [
        os.path.relpath(os.path.join(directory, each), top)
        for directory, _, names in os.walk(top)
        for each in names
    ]


def _link(source: str, path: str) -> None:
    """Have the file *source* at *path* as well: no file is written to later."""
    try:
        os.link(source, path)
    except OSError:  # of another file system
        shutil.copy2(source, path)
