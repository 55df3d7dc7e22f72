# SPDX-License-Identifier: GPL-2.0-or-later

"""The configuration options."""

import dataclasses
import json
import os

from breezy import config
from breezy.tests import TestCase, TestCaseInTempDir

from .. import __doc__ as PLUGIN_HELP
from ..lpserve import location, loginrules, options
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

    def test_registered(self):
        for name in OPTIONS:
            option = config.option_registry.get(f"lpserve.{name}")
            self.assertEqual(f"lpserve.{name}", option.name)
            self.assertIs(getattr(options, name), option)

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

    def test_defaults(self):
        settings = read_settings()
        self.assertEqual(
            Settings(
                runtime_dir=None,
                directory=None,
                allow_writes=False,
                client_timeout=None,
                request_timeout=60.0,
                connect_timeout=30.0,
                shutdown_timeout=300.0,
                max_workers=2000,
                max_workers_per_user=0,
                max_workers_per_address=0,
                queue_timeout=10.0,
                spare_workers=2,
                max_spare_workers=16,
                allowed_peers=(),
                service_user=None,
                hangup_timeout=60.0,
                worker_memory=0,
                sandbox="auto",
                sandbox_paths=(),
                warm_repositories=16,
                warm_memory=256,
                warm_preload=(),
                warm_interval=10.0,
                warm_report_interval=60.0,
                environment=location.ENVIRONMENT,
                autostart=False,
                fallback=True,
                log_file=None,
                listen="127.0.0.1:5022",
                host_key=None,
                authorized_keys=None,
                shared_account="bzr",
                login_grace_time=60.0,
                max_startups=(10, 30, 500),
                per_source_max_startups=None,
                per_source_netblock_size=(32, 128),
                per_source_penalties=loginrules.Penalties(),
                per_source_penalty_exempt_list=(),
                max_auth_tries=6,
                keepalive_interval=60.0,
            ),
            settings,
        )

    def test_as_the_client_has_them(self):
        """Without configuration the stand-alone client assumes the same."""
        settings = read_settings()
        assumed = location.read_configuration()
        for name, value in assumed.items():
            self.assertEqual(getattr(settings, name), value, name)

    def test_configured(self):
        self.configure(
            "lpserve.directory = /srv/%u",
            "lpserve.allow_writes = yes",
            "lpserve.client_timeout = 1.5",
            "lpserve.max_workers = 0",
            "lpserve.environment = LANG, TZ",
        )
        settings = read_settings()
        self.assertEqual("/srv/%u", settings.directory)
        self.assertIs(True, settings.allow_writes)
        self.assertEqual(1.5, settings.client_timeout)
        self.assertEqual(0, settings.max_workers)
        self.assertEqual(("LANG", "TZ"), settings.environment)

    def test_read_afresh(self):
        """FAULT 20: what changed meanwhile is seen."""
        for number in (1, 2):
            self.configure(f"lpserve.max_workers = {number}")
            self.assertEqual(number, read_settings().max_workers)

    def test_renamed(self):
        """What an option was called before is none any more, and is one now."""
        for old, new in options.RENAMED.items():
            self.assertNotIn(old, OPTIONS)
            self.assertIn(new, OPTIONS)

    def test_overrides(self):
        """The command line beats the configuration, where it says something."""
        self.configure("lpserve.directory = /srv", "lpserve.allow_writes = True")
        settings = read_settings(directory="/other", allow_writes=None)
        self.assertEqual("/other", settings.directory)
        self.assertIs(True, settings.allow_writes)

    def test_bad_values(self):
        """One that cannot be used is an error that names the option."""
        for name, values in (
            ("allow_writes", ("perhaps", "", "2")),
            ("autostart", ("perhaps", "")),
            ("client_timeout", ("soon", "", "-1", "inf", "nan")),
            ("request_timeout", ("soon", "", "-1", "inf", "nan")),
            ("worker_memory", ("many", "", "-1", "1.5")),
            ("connect_timeout", ("soon", "", "-1", "inf", "nan")),
            ("shutdown_timeout", ("soon", "", "-1", "inf", "nan")),
            ("max_workers", ("many", "", "-1", "1.5")),
            ("spare_workers", ("many", "", "-1", "1.5")),
            ("max_startups", ("many", "", "0", "10:30", "10:0:20", "20:30:10")),
            ("per_source_max_startups", ("many", "", "0", "-1")),
            ("per_source_netblock_size", ("", "33", "32:129", "a:b")),
            ("per_source_penalties", ("authfail", "noauth:soon", "x:5s", "yes no")),
            ("per_source_penalty_exempt_list", ("host", "10.0.0.1/8", "::/129")),
            ("max_auth_tries", ("many", "", "0", "-1")),
        ):
            for value in values:
                self.configure(f"lpserve.{name} = {value}")
                error = self.assertRaises(ConfigurationError, read_settings)
                self.assertContainsRe(str(error), f"lpserve.{name}")

    def test_for_worker(self):
        """What it is told can be sent to it."""
        told = read_settings(directory="/srv").for_worker()
        self.assertEqual("/srv", json.loads(json.dumps(told))["directory"])

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
