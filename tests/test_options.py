# SPDX-License-Identifier: GPL-2.0-or-later

"""The configuration options."""

import dataclasses
import json
import os

from breezy import config
from breezy.tests import TestCase, TestCaseInTempDir

from .. import __doc__ as PLUGIN_HELP
from ..lpserve import location, options
from ..lpserve.errors import ConfigurationError
from ..lpserve.settings import OPTIONS, Settings, read_meeting_place, read_settings


class TestOptions(TestCase):
    """Each option as Breezy knows it."""

    def names(self):
        """Those that are registered, without the prefix."""
        registered = config.option_registry.keys()
        return [
            n.removeprefix("lpserve.") for n in registered if n.startswith("lpserve.")
        ]

    def test_names_agree(self):
        """What `__init__` registers is what `settings` reads, and describes."""
        self.assertEqual(sorted(OPTIONS), sorted(self.names()))
        fields = [field.name for field in dataclasses.fields(Settings)]
        self.assertEqual(list(OPTIONS), fields)

    def test_help(self):
        """Sentences; 'brz help lpserve' has all of them."""
        for name in OPTIONS:
            text = config.option_registry.get_help(f"lpserve.{name}")
            self.assertEndsWith(text, ".")
            self.assertIn(f":lpserve.{name}:\n", PLUGIN_HELP)

    def test_defaults_in_the_help(self):
        """Where the help of the plug-in names a default it is the default."""
        help = " ".join(PLUGIN_HELP.split())
        settings = read_settings()
        for text in (
            "idle client is disconnected (serve.client_timeout: 300).",
            f"is disconnected ({settings.request_timeout:.0f}; 0 means never).",
            f"wait for each other ({settings.connect_timeout:.0f}).",
            f"besides what all share ({settings.worker_memory}: no limit).",
            f"running connections ({settings.shutdown_timeout:.0f})",
            f"open at once ({settings.max_workers};",
            f"already forked ({settings.spare_workers})",
            f"clients may change it ({settings.allow_writes})",
            f"if there is none ({settings.autostart})",
            f"set in its worker ({', '.join(settings.environment)})",
        ):
            self.assertIn(text, help)


class TestSettings(TestCaseInTempDir):
    """`settings.read_settings`."""

    def configure(self, *lines):
        config.GlobalStack().store.unload()
        store = config.GlobalStore()
        store._load_from_string("\n".join(["[DEFAULT]", *lines, ""]).encode())
        store._need_saving = lambda: True
        store.save()

    def test_renamed(self):
        """What an option was called before is none any more, and is one now."""
        for old, new in options.RENAMED.items():
            self.assertNotIn(old, OPTIONS)
            self.assertIn(new, OPTIONS)

    def test_overrides(self):
        """The command line beats the configuration, where it says something."""
        self.configure("lpserve.directory = /srv/%u", "lpserve.allow_writes = yes")
        self.assertEqual("/srv/%u", read_settings().directory)
        settings = read_settings(directory="/other", allow_writes=None)
        self.assertEqual("/other", settings.directory)
        self.assertIs(True, settings.allow_writes)
        # A worker is told the same, in JSON.
        told = json.loads(json.dumps(settings.for_worker()))
        self.assertEqual("/other", told["directory"])

    def test_bad_values(self):
        """One that cannot be used is an error that names the option."""
        # Each parser once: tests/test_loginrules.py and test_location.py have more.
        for name, values in (
            ("allow_writes", ("perhaps", "", "2")),
            ("client_timeout", ("soon", "", "-1", "inf", "nan")),
            ("request_timeout", ("soon", "-1")),
            ("worker_memory", ("many", "", "-1", "1.5")),
            ("shutdown_timeout", ("soon", "-1")),
            ("max_workers", ("many", "-1")),
            ("spare_workers", ("many", "-1")),
            ("max_startups", ("many", "20:30:10")),
            ("per_source_max_startups", ("many", "0")),
            ("per_source_netblock_size", ("", "a:b")),
            ("per_source_penalties", ("authfail", "x:5s")),
            ("per_source_penalty_exempt_list", ("host", "::/129")),
            ("max_auth_tries", ("many", "0")),
            ("ssh_processes", ("many", "", "0", "-1", "257", "1.5")),
            ("proxy_protocol_from", ("host", "10.0.0.1/8")),
        ):
            for value in values:
                self.configure(f"lpserve.{name} = {value}")
                error = self.assertRaises(ConfigurationError, read_settings)
                self.assertContainsRe(str(error), f"lpserve.{name}")

    def test_processes(self):
        """As many as there are processors for this process, or as many as it says."""
        for value, wanted in (("auto", len(os.sched_getaffinity(0))), ("3", 3)):
            self.configure(f"lpserve.ssh_processes = {value}")
            self.assertEqual(wanted, read_settings().ssh_processes)

    def test_no_configuration(self):
        """FAULT 65: a file that cannot be read at all is one line, too."""
        self.configure()
        path = config.GlobalStore().transport.local_abspath("breezy.conf")
        for content, text in (
            (b"[DEFAULT\nx\ny\n", "cannot be parsed: Invalid line ('[DEFAULT')"),
            (b"[DEFAULT]\nlpserve.listen = \xff\n", "is not UTF-8"),
            (None, "cannot be read: "),
        ):
            os.unlink(path)
            if content is None:
                os.mkdir(path)
            else:
                with open(path, "wb") as file:
                    file.write(content)
            for read in (
                read_settings,
                lambda: read_meeting_place(None),
            ):
                error = self.assertRaises(ConfigurationError, read)
                self.assertStartsWith(str(error), f"breezy.conf {text}")
                self.assertNotIn("\n", str(error))
            # Where the directory is given nothing is to be read.
            given = read_meeting_place("/run/x")
            self.assertEqual(("/run/x", location.CONNECT_TIMEOUT, None), given)
        os.rmdir(path)
        config.GlobalStack().store.unload()
